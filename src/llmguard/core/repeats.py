"""Callers that repeat themselves, counted in this process: fingerprints of prompts, windows, and usual pace.

Exact numbers across processes need the quota store; these only have to notice that something runs in circles, and
must cost next to nothing for everybody else.
"""

from __future__ import annotations

from collections.abc import Hashable

_VARIABLE = b"0123456789abcdefABCDEF-:"
_MOST_KEYS = 20_000

SLOT_MS = 10 * 60_000
"""A pace is measured in slots of ten minutes."""

_HISTORY = 6
"""Slots that must have been seen before a pace is usual: an hour."""

_WEIGHT = 8
"""An older slot counts 7/8 of the next one in the usual pace."""

_LONG = 50
"""After so many silent slots a usual pace is forgotten."""

_NOTABLE = 100
"""A pace below so many calls a slot is never remarkable."""


def exact(body: bytes) -> int:
    """A fingerprint of a body; means nothing in another process."""
    return hash(body)


def similar(body: bytes) -> int:
    """A fingerprint that digits, UUIDs, hexadecimal ids and dates do not change.

    It leaves out every character that such things consist of, also where it is part of a word: what is left of two
    different texts still differs, and it is found a hundred times faster than by a pattern.
    """
    return hash(body.translate(None, _VARIABLE))


class Repeats:
    """How often each key was seen in a window of fixed length that begins with its first key."""

    __slots__ = ("_counts", "_ends", "_length")

    def __init__(self, length_ms: int) -> None:
        self._length = length_ms
        self._ends = 0
        self._counts: dict[Hashable, int] = {}

    def count(self, key: Hashable, now: int) -> int:
        """Count ``key`` and return how often it was seen in this window. Beyond some thousand keys new ones count 1."""
        if now >= self._ends:
            self._counts = {}
            self._ends = now + self._length
        seen = self._counts.get(key, 0) + 1
        if seen > 1 or len(self._counts) < _MOST_KEYS:
            self._counts[key] = seen
        return seen


class Pace:
    """Calls of one feature: how many in this slot, how many in a usual one."""

    __slots__ = ("_slot", "_slots", "_weighted", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self._slot = self._slots = self._weighted = 0

    def count(self, now: int) -> None:
        """One more call."""
        slot = now // SLOT_MS
        if slot != self._slot:
            self._pass(slot - self._slot if self._slot else 0)
            self._slot = slot
        self.calls += 1

    def _pass(self, slots: int) -> None:
        """So many slots are over: the one that ran, and others in which nobody called."""
        for calls in (self.calls, *[0] * (slots - 1))[: min(slots, _LONG)]:
            self._weighted = self._weighted + calls - self._weighted // _WEIGHT if self._slots else calls * _WEIGHT
            self._slots += 1
        self.calls = 0

    def limit(self, times: int) -> int | None:
        """The number of calls that is ``times`` the usual one; None before there is a history."""
        if self._slots < _HISTORY:
            return None
        return max(_NOTABLE, times * self._weighted // _WEIGHT)
