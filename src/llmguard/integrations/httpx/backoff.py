"""Waiting on the caller's side: for a rate that is exceeded for a moment, and for room that running calls hold.

What a wait cannot mend (a spent budget, a trip) is never waited for. While nothing is refused this costs one look at an
empty dictionary. Nothing is shared between processes: each slows down by what it is told, and differently.

The pace follows AIMD (additive increase, multiplicative decrease; RFC 5681, section 3.1): every refusal doubles the
pause between two calls of its scope, every admitted call takes a bit off it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llmguard.core.decision import Refuse
from llmguard.providers.base import read_loosely

PATIENCE = 10.0
"""Seconds that one call may be made to wait in all; what takes longer is the caller's to decide about."""

WAITED_FOR = frozenset({"rate_limited", "budget_contended"})
OVERLOADED = frozenset({429, 503, 529})
"""Statuses with which providers ask for patience."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_STEP = 0.025
_JITTER = 0.25
_MANY = 1_000

Kind = Hashable
"""Calls that are likely to meet the same limit: those of one provider, model, team and feature."""


@dataclass(slots=True)
class _Pace:
    """``pause`` is kept between two calls; the next one may go at ``next_at`` (monotonic seconds)."""

    pause: float = 0.0
    next_at: float = 0.0


class Backoff:
    """The pace of each scope in which calls were refused. For any number of threads and loops."""

    def __init__(
        self,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._paces: dict[Hashable, _Pace] = {}
        self._met: dict[Kind, Hashable] = {}
        self._lock = threading.Lock()

    def before(self, kind: Kind) -> float:
        """Seconds that a new call has to wait for its turn; 0.0 unless calls like it were refused lately."""
        if not self._met:
            return 0.0
        with self._lock:
            pace = self._pace_of(kind)
            wait = 0.0 if pace is None else pace.next_at - self._clock()
            if pace is None or wait <= 0 or wait > self._patience:
                return 0.0
            return self._turn(pace, wait)

    def refused(self, kind: Kind, refuse: Refuse, waited: float) -> float | None:
        """Seconds after which to try again a call that the guard refused, None where waiting is of no use.

        ``waited`` are the seconds that this call has waited already.
        """
        if refuse.code not in WAITED_FOR:
            return None
        scope = (refuse.rule, tuple(sorted(refuse.scope.items())))
        with self._lock:
            pace = self._slower(kind, scope)
            wait = max(refuse.retry_after or 1, pace.next_at - self._clock())
            if waited + wait * (1 + _JITTER) > self._patience:
                return None
            return self._turn(pace, wait)

    def asked(self, kind: Kind, seconds: float) -> None:
        """The provider itself asked for patience: no call like this one goes out before."""
        with self._lock:
            pace = self._slower(kind, kind)
            pace.next_at = max(pace.next_at, self._clock() + seconds)

    def went(self, kind: Kind) -> None:
        """A call went out and was not turned away."""
        if not self._met:
            return
        with self._lock:
            pace = self._pace_of(kind)
            if pace is None:
                return
            pace.pause -= _STEP
            if pace.pause <= 0:
                self._paces.pop(self._met.pop(kind), None)

    def _turn(self, pace: _Pace, wait: float) -> float:
        """Take the next turn, at least ``wait`` from now, and leave the one after it to others."""
        wait *= 1 + _JITTER * self._chance()
        pace.next_at = self._clock() + wait + pace.pause
        return wait

    def _pace_of(self, kind: Kind) -> _Pace | None:
        scope = self._met.get(kind)
        pace = self._paces.get(scope)
        if scope is not None and pace is None:
            del self._met[kind]
        return pace

    def _slower(self, kind: Kind, scope: Hashable) -> _Pace:
        if len(self._met) >= _MANY:
            self._met.clear()
            self._paces.clear()
        self._met[kind] = scope
        pace = self._paces.setdefault(scope, _Pace())
        pace.pause = min(max(2 * pace.pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        return pace


def retry_after(headers: Mapping[str, str], body: bytes = b"") -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, `retry-after` in seconds or as a date, or the
    `google.rpc.RetryInfo` of Google's error bodies. None where it does not say."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(float(milliseconds) / 1000, 0.0)
        if (named := headers.get("retry-after")) is not None:
            return max(_seconds(named), 0.0)
        return _google(body)
    except ValueError:
        return None


def _seconds(named: str) -> float:
    if named[:1].isdigit():
        return float(named)
    return (parsedate_to_datetime(named) - datetime.now(UTC)).total_seconds()


def _google(body: bytes) -> float | None:
    if b"retryDelay" not in body:
        return None
    error = read_loosely(body).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return float(delay[:-1])
    return None
