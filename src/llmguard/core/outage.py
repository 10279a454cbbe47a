"""What a process may do on its own while the quota store is away.

An outage begins with the first call that the store does not answer, and ends when it has answered for half a minute.
Each process has one small allowance of money and calls for all of it; what is spent meanwhile is on record as ever, and
the store hears of it by rid when it is back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

WhenStoreDown = Literal["local", "deny", "allow"]
"""What a rule says to a call that the store cannot be asked about: `local` lets it go on the process's allowance,
`deny` refuses it, `allow` lets it go."""

Why = Literal["money", "calls", "background"]

_STRICTEST: Final[tuple[WhenStoreDown, ...]] = ("deny", "local", "allow")
_ON_DISK = struct.Struct("<4q")
_BELIEF_MS = 500
_STEADY_MS = 30_000


def strictest(policies: Iterable[WhenStoreDown]) -> WhenStoreDown:
    """What holds for a call that several rules speak of; without any it may go."""
    found = set(policies)
    return next((policy for policy in _STRICTEST if policy in found), "allow")


@dataclass(frozen=True, slots=True)
class OutageTerms:
    """The allowance of a process and outage: ``money_nano`` in all, and ``calls`` in each ``period_ms``. After
    ``background_ms`` tasks get nothing any more: they can wait."""

    money_nano: int = 500_000_000
    calls: int = 30
    period_ms: int = 60_000
    background_ms: int = 15 * 60_000


@dataclass(slots=True, eq=False)
class Outage:
    """How an outage stands that began at ``since`` (epoch ms, 0: there is none). ``calls`` are those of the running
    ``period``."""

    since: int = 0
    spent: int = 0
    period: int = 0
    calls: int = 0

    def take(self, terms: OutageTerms, nano: int, now: int, *, background: bool) -> Why | None:
        """Charge a call's estimate to the allowance, or say what stands in the way."""
        self.since = self.since or now
        if background and now - self.since >= terms.background_ms:
            return "background"
        if self.spent + nano > terms.money_nano:
            return "money"
        period = now // terms.period_ms
        calls = self.calls if period == self.period else 0
        if calls >= terms.calls:
            return "calls"
        self.spent, self.period, self.calls = self.spent + nano, period, calls + 1
        return None

    def packed(self) -> bytes:
        """As it is kept over a restart."""
        return _ON_DISK.pack(self.since, self.spent, self.period, self.calls)

    @classmethod
    def unpacked(cls, data: bytes) -> Outage:
        """What :meth:`packed` made; no outage for anything else."""
        return cls(*_ON_DISK.unpack(data)) if len(data) == _ON_DISK.size else cls()


class Allowance:
    """The allowance of one process. What it remembers ends with the process; a subclass keeps it longer."""

    def __init__(self, terms: OutageTerms | None = None) -> None:
        self.terms = terms or OutageTerms()
        self.outage = Outage()
        self._silent_until = 0
        self._failed_at = 0

    def take(self, nano: int, now: int, *, background: bool) -> Why | None:
        """Let a call that is estimated at ``nano`` go without the store, or say why not."""
        self._failed_at = now
        return self.outage.take(self.terms, nano, now, background=background)

    def failed(self, now: int) -> None:
        """The store has not answered."""
        self._silent_until = now + _BELIEF_MS

    def silent(self, now: int) -> bool:
        """Whether the store did not answer a moment ago, so that asking would only cost time."""
        return now < self._silent_until

    def answered(self, now: int) -> None:
        """The store is there."""
        if self.outage.since and self.is_steady(now):
            self.outage = Outage()

    def is_steady(self, now: int) -> bool:
        """Whether the last failure is so long ago that a store which comes and goes is not taken to be back."""
        return now - self._failed_at >= _STEADY_MS
