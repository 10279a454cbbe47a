"""A provider that bills by tag: how many calls each job under test made it answer, whoever stopped listening meanwhile.

A call says which job it belongs to in the header ``x-rig-tag``. *Paid* is a request answered with a success, counted
when it has arrived whole: a caller that times out pays all the same.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.upstream import Answer, Seen, Upstream, answer

TAG = "x-rig-tag"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How calls of one tag are answered: ``delay`` seconds late, the first ``failures`` of them with ``status``.

    ``prompt`` and ``completion`` are the tokens that the bill says.
    """

    delay: float = 0.0
    failures: int = 0
    status: int = 503
    prompt: int = 30
    completion: int = 100


@dataclass(frozen=True, slots=True)
class Bill:
    """One paid call: when (monotonic seconds), its headers, in lower case."""

    at: float
    headers: dict[str, str]


class PaidUpstream:
    """Counts what is paid, and turns the mains off (a file named after the tag) when a tag has paid ``ceiling`` times.

    Tasks under test look at the mains before each call (:func:`tests.support.celery_side.mains_off`), so that not even
    an unguarded job outlives its test.
    """

    def __init__(self, mains: Path, ceiling: int) -> None:
        self.ceiling = ceiling
        self.server = Upstream()
        self._mains = mains
        self._behaviours: dict[str, Behaviour] = {}
        self._bills: dict[str, list[Bill]] = {}
        self._failed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.server.reply(self._answer)

    def behave(self, tag: str, behaviour: Behaviour) -> None:
        """Answer the calls of ``tag`` like this from now on."""
        self._behaviours[tag] = behaviour

    def bills(self, tag: str) -> list[Bill]:
        """The paid calls of one tag, in order."""
        with self._lock:
            return list(self._bills.get(tag, ()))

    def paid(self, tag: str) -> int:
        """How many calls of one tag were paid."""
        with self._lock:
            return len(self._bills.get(tag, ()))

    def tags(self) -> dict[str, int]:
        """How many calls each tag has paid."""
        with self._lock:
            return {tag: len(bills) for tag, bills in self._bills.items()}

    def asked(self) -> int:
        """How many requests came at all."""
        return len(self.server.requests)

    def _answer(self, seen: Seen) -> Answer:
        tag = seen.header(TAG) or "untagged"
        behaviour = self._behaviours.get(tag, Behaviour())
        with self._lock:
            if self._failed[tag] < behaviour.failures:
                self._failed[tag] += 1
                return answer(status=behaviour.status, json_body={"error": {"message": "try again"}})
            bills = self._bills.setdefault(tag, [])
            bills.append(Bill(time.monotonic(), {name.lower(): value for name, value in seen.headers}))
            if len(bills) >= self.ceiling:
                (self._mains / tag).touch()
        return answer(json_body=_completion(behaviour), delay=behaviour.delay)


def _completion(behaviour: Behaviour) -> dict[str, object]:
    return {
        "id": "chatcmpl-rig",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "rig",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
        "usage": {
            "prompt_tokens": behaviour.prompt,
            "completion_tokens": behaviour.completion,
            "total_tokens": behaviour.prompt + behaviour.completion,
        },
    }


@contextmanager
def paid_upstream(mains: Path, ceiling: int) -> Iterator[PaidUpstream]:
    """A running one, stopped at the end of the block."""
    mains.mkdir(exist_ok=True)
    provider = PaidUpstream(mains, ceiling)
    provider.server.start()
    try:
        yield provider
    finally:
        provider.server.stop()
