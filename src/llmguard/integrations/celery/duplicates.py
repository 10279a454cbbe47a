"""Messages whose task runs elsewhere: the broker took the run for dead, or delivers late.

Such a message may be the last one that knows of the task, should its owner die: it is not dropped but put off, by a
copy of it. One copy of a task travels at a time, and each time it arrives it runs, ends or is put off again.
"""

from __future__ import annotations

from typing import Any, Final

from celery.exceptions import Ignore

from llmguard.core.moves import Done, Trip, Untrip
from llmguard.core.runaway import COPY
from llmguard.core.runs import KEEP_RUNS_MS
from llmguard.errors import StoreUnavailable
from llmguard.integrations.celery import marks
from llmguard.integrations.celery.attempts import Attempt
from llmguard.runtime.ids import now_ms
from llmguard.runtime.upkeep import RUN_LEASE_MS

LONGEST: Final = RUN_LEASE_MS / 1000
"""Seconds at most until a copy is looked at again: as long as a dead owner's lease."""

_VISIBILITY: Final = 3600.0
"""What kombu's transports without a `visibility_timeout` take (`kombu.transport.redis`)."""


def put_off(attempt: Attempt) -> Ignore:
    """Look at this message again later. Returns what to raise."""
    if attempt.policy.duplicates == "defer" and (attempt.delivery.copy or _first(attempt)):
        _publish(attempt)
    attempt.put_off()
    return Ignore(f"{attempt.execution.task_id} runs elsewhere")


def arrived(attempt: Attempt) -> None:
    """A copy need not be put off again: the next duplicate may send one of its own."""
    if attempt.delivery.copy:
        attempt.service.tell((Untrip(_turn(attempt)),))


def postpone(attempt: Attempt) -> Ignore:
    """Run this message later, when the store is there again. Returns what to raise."""
    _publish(attempt)
    attempt.put_off()
    return Ignore(f"{attempt.execution.task_id} waits for the quota store")


def _first(attempt: Attempt) -> bool:
    """Whether no copy of this task is on its way."""
    try:
        answer = attempt.service.ask(Trip(_turn(attempt), now_ms() + KEEP_RUNS_MS))
    except StoreUnavailable:
        return True
    return isinstance(answer, Done) and answer.changed


def _turn(attempt: Attempt) -> str:
    return COPY.format(attempt.execution.key)


def _publish(attempt: Attempt) -> None:
    """The message once more. It waits in a worker, which must not keep it for longer than the broker lets it."""
    task, request = attempt.task, attempt.request
    options = task.app.conf.broker_transport_options or {}
    visible = float(options.get("visibility_timeout", _VISIBILITY))
    headers: dict[str, Any] = dict(request.headers or {})
    said = attempt.delivery.marks._replace(copy=request.retries or 0)
    marks.write(headers, request.id, said, attempt.delivery.installation.signer)
    again = task.signature_from_request(request, countdown=min(LONGEST, visible / 2), headers=headers)
    again.apply_async()
