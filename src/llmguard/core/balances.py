"""What one bucket holds, and whether a call still fits into it.

Settled spend and live holds are different fields. A call fits when, for every bucket::

    settled + orphan + held     + e <= L
    settled + orphan + exposure + c <= L × (1 + overshoot)
"""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.core.moves import ROLLING_PARTS, Hold, Level, Reserve

KEEP_MS = 48 * 3_600_000
"""A bucket outlives its window by this much, for what settles late."""

SHARE = 32
"""A call that names no maximum may be exposed to this part of what is left, so that many such calls fit at once."""

LASTING = ("too_large", "spent", "insufficient", "contended")
"""Reasons to refuse a hold, the most lasting first: the caller hears the one that waiting helps least."""


class Balance:
    """The amounts of one bucket. ``expires`` is 0 for a `total` bucket and one that counts live calls.

    ``told`` are thresholds already reported, ``told_up_to`` a level below which all are. A rolling window keeps what
    was settled and orphaned per sub-bucket in ``parts`` and is moved on by :meth:`roll`. ``since`` is the batch that
    made the bucket: an older lease took from an older bucket of the name.
    """

    __slots__ = (
        "denied",
        "expires",
        "exposure",
        "held",
        "orphan",
        "parts",
        "settled",
        "since",
        "slot",
        "step",
        "told",
        "told_up_to",
    )

    def __init__(self, since: int, now: int, window_end: int, rolling_ms: int) -> None:
        self.settled = self.orphan = self.held = self.exposure = self.denied = 0
        self.told: set[int] = set()
        self.told_up_to = 0
        self.since = since
        self.expires = window_end + KEEP_MS if window_end else 0
        self.step = rolling_ms // ROLLING_PARTS
        self.slot = -1
        self.parts: dict[int, list[int]] = {}
        if self.step:
            self.roll(now)

    def roll(self, now: int) -> None:
        """Let a rolling window forget the sub-buckets that it has left behind."""
        slot = now // self.step
        if slot <= self.slot:
            return
        for old in [part for part in self.parts if part < slot - ROLLING_PARTS]:
            settled, orphan = self.parts.pop(old)
            self.settled -= settled
            self.orphan -= orphan
        if slot // ROLLING_PARTS != self.slot // ROLLING_PARTS:
            self.told.clear()
            self.told_up_to = 0
        self.slot = slot
        self.expires = (slot + 1 + ROLLING_PARTS) * self.step + KEEP_MS

    def charge(self, slot: int, settled: int, orphan: int = 0) -> None:
        """Add signed amounts, for a rolling window to the sub-bucket ``slot`` unless it is forgotten already."""
        if self.step:
            if slot < self.slot - ROLLING_PARTS:
                return
            part = self.parts.setdefault(min(slot, self.slot), [0, 0])
            part[0] += settled
            part[1] += orphan
        self.settled += settled
        self.orphan += orphan

    def load(self, slot: int, settled: int) -> None:
        """Write an absolute settled amount."""
        old = self.parts.get(min(slot, self.slot), (0, 0))[0] if self.step else self.settled
        self.charge(slot, settled - old)

    def crossed(self, thresholds: Sequence[int]) -> list[int]:
        """The thresholds that settled + orphan has reached and that were not reported before."""
        spent = self.settled + self.orphan
        new = [mark for mark in thresholds if self.told_up_to < mark <= spent and mark not in self.told]
        self.told.update(new)
        return new

    def level(self) -> Level:
        return Level(self.settled, self.orphan, self.held, self.exposure)


EMPTY = Balance(0, 0, 0, 0)
"""Stands for a bucket that does not exist; never changed."""


def cap(hold: Hold, max_output: int) -> int:
    """c: the worst that the call can cost, never below its estimate."""
    worst = hold.fixed + hold.per_output * max_output
    return worst if worst > hold.estimate else hold.estimate


def refusal(hold: Hold, balance: Balance, worst: int, had: int = 0, had_cap: int = 0) -> str | None:
    """Why ``hold`` with the cap ``worst`` does not fit, or None. ``had`` is what the same lease holds there already."""
    spent = balance.settled + balance.orphan
    if (
        spent + balance.held + hold.estimate - had <= hold.limit
        and spent + balance.exposure + worst - had_cap <= hold.ceiling
    ):
        return None
    if hold.estimate > hold.limit or worst > hold.ceiling:
        return "too_large"
    if spent >= hold.limit:
        return "spent"
    if spent + hold.estimate <= hold.limit and spent + worst <= hold.ceiling:
        return "contended"
    return "insufficient"


def least_output(move: Reserve) -> int:
    """The lowest ``max_output`` that the store may admit the call with."""
    return min(move.floor, move.max_output) if move.clamp else move.max_output


def lowered_output(move: Reserve, buckets: Sequence[tuple[Hold, Balance]]) -> int:
    """The ``max_output`` that a call gets which fits with :func:`least_output`.

    It is the largest m with ``fixed`` + ``per_output`` × m within what every bucket has left; a call that named no
    maximum gets a share of that, so that calls without one do not take everything from each other.
    """
    if not move.clamp:
        return move.max_output
    share = 1 if move.named else SHARE
    most = move.max_output
    for hold, balance in buckets:
        if hold.per_output:
            room = hold.ceiling - balance.settled - balance.orphan - balance.exposure - hold.fixed
            most = min(most, room // (share * hold.per_output))
    return max(most, least_output(move))
