"""The plain state of a quota store, and how each piece of it is made, found and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from heapq import heappop, heappush
from typing import NamedTuple

from llmguard.core import gcra
from llmguard.core.balances import KEEP_MS, Balance
from llmguard.core.breakers import Breaker
from llmguard.core.executions import Runs
from llmguard.core.moves import ROLLING_PARTS
from llmguard.core.tallies import Scope

HORIZON_MS = 30 * 60_000
"""How long the end of a call is remembered, and the age to which an unknown settle is believed."""

_SWEEP = 1_024


class Status(IntEnum):
    """Where a rid stands. A rid without a record is unknown."""

    HELD = 1
    ORPHAN = 2
    SETTLED = 3
    RELEASED = 4


class Taken(NamedTuple):
    """What a lease took from one bucket: e and c."""

    name: str
    estimate: int
    cap: int
    window_end: int
    rolling_ms: int
    concurrency: bool

    def slot(self, at: int) -> int:
        """The sub-bucket of a lease admitted at ``at``; 0 where there are none."""
        return at // (self.rolling_ms // ROLLING_PARTS) if self.rolling_ms else 0


class Lease:
    """A held or orphaned reservation, admitted at ``at``; ``seq`` is the batch in which it last took something.

    ``due`` is when the reaper looks at it (0: never again), ``until`` when an orphan is forgotten (0: never),
    ``parts`` what of the call it has taken.
    """

    __slots__ = ("at", "due", "max_output", "owner", "parts", "seq", "status", "taken", "until")

    def __init__(self, owner: str, at: int) -> None:
        self.status = Status.HELD
        self.owner = owner
        self.at = at
        self.seq = 0
        self.due = 0
        self.until = 0
        self.parts = 0
        self.max_output: int | None = None
        self.taken: list[Taken] = []


class Tombstone:
    """An ended call: what it was charged, in the order of its charges, and until when that is remembered."""

    __slots__ = ("amounts", "rev", "status", "until")

    def __init__(self, status: Status, until: int, rev: int = -1, amounts: tuple[int, ...] = ()) -> None:
        self.status = status
        self.until = until
        self.rev = rev
        self.amounts = amounts


class State:
    """Everything one namespace holds.

    ``epoch`` is the time from which on reserves are admitted, 0 for a cold store; ``fence`` counts turns to load it.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.seq = 0
        self.rules = 0
        self.fence = 0
        self.turn_until = 0
        self.turn_ms = 0
        self.balances: dict[str, Balance] = {}
        self.records: dict[str, Lease | Tombstone] = {}
        self.meters: gcra.Meters = {}
        self.trips: dict[str, int] = {}
        self.scopes: dict[str, Scope] = {}
        self.runs: dict[str, Runs] = {}
        self.breakers: dict[str, Breaker] = {}
        self._due: list[tuple[int, str]] = []
        self._forget: list[tuple[int, str]] = []
        self._sweep_at = _SWEEP

    def wipe(self) -> None:
        """Forget buckets and leases; trips, rates, tallies, runs and the rules' version stay."""
        self.balances.clear()
        self.records.clear()
        self._due.clear()
        self._forget.clear()

    # ------------------------------------------------------------------ leases and tombstones

    def record(self, rid: str, now: int) -> Lease | Tombstone | None:
        """The rid's lease or tombstone, None when it is unknown or forgotten."""
        record = self.records.get(rid)
        if record is None or not record.until or now < record.until:
            return record
        del self.records[rid]
        return None

    def push(self, rid: str, lease: Lease, due: int) -> None:
        """Let the reaper look at the lease at ``due`` and not before."""
        lease.due = due
        heappush(self._due, (due, rid))

    def take_due(self, now: int, at_most: int) -> list[tuple[str, Lease]]:
        """Leases whose time has come, the longest overdue first."""
        found: list[tuple[str, Lease]] = []
        while self._due and self._due[0][0] <= now and len(found) < at_most:
            due, rid = heappop(self._due)
            lease = self.record(rid, now)
            twice = found and found[-1][0] == rid  # pushed twice to the same time
            if isinstance(lease, Lease) and lease.due == due and not twice:
                found.append((rid, lease))
        return found

    def keep(self, rid: str, record: Lease | Tombstone, until: int) -> None:
        """Keep a record until then, 0 for good."""
        self.records[rid] = record
        record.until = until
        if until:
            heappush(self._forget, (until, rid))

    def forget(self, now: int) -> None:
        """Drop what has expired: records at once, the rest when there is twice as much as after the last sweep."""
        while self._forget and self._forget[0][0] <= now:
            until, rid = heappop(self._forget)
            record = self.records.get(rid)
            if record and record.until == until:
                del self.records[rid]
        if self._size() > self._sweep_at:
            self.balances = {k: b for k, b in self.balances.items() if not b.expires or now < b.expires}
            self.meters = {k: m for k, m in self.meters.items() if now < m.empty_at}
            self.trips = {k: until for k, until in self.trips.items() if not until or now < until}
            self.scopes = {k: s for k, s in self.scopes.items() if now < s.until}
            self.runs = {k: r for k, r in self.runs.items() if now < r.until}
            self.breakers = {k: b for k, b in self.breakers.items() if now < b.until}
            self._sweep_at = max(_SWEEP, 2 * self._size())

    def _size(self) -> int:
        return (
            len(self.balances)
            + len(self.meters)
            + len(self.trips)
            + len(self.scopes)
            + len(self.runs)
            + len(self.breakers)
        )

    # ------------------------------------------------------------------ buckets

    def balance(self, name: str, now: int) -> Balance | None:
        """The bucket as it stands at ``now``, None when it does not exist or has expired."""
        balance = self.balances.get(name)
        if balance is None:
            return None
        if balance.expires and now >= balance.expires:
            del self.balances[name]
            return None
        if balance.step:
            balance.roll(now)
        return balance

    def open(self, name: str, window_end: int, rolling_ms: int, now: int) -> Balance | None:
        """The bucket, made with its expiry where it is missing; None when its time is over."""
        balance = self.balance(name, now)
        if balance or (window_end and not rolling_ms and now >= window_end + KEEP_MS):
            return balance
        balance = self.balances[name] = Balance(self.seq, now, window_end, rolling_ms)
        return balance

    def touched(self, lease: Lease, now: int) -> Iterator[tuple[Taken, Balance]]:
        """What the lease took and the buckets it took that from, not later ones of the same name."""
        for taken in lease.taken:
            balance = self.balance(taken.name, now)
            if balance and (balance.since <= lease.seq or taken.concurrency):
                yield taken, balance

    def give_back(self, name: str, balance: Balance, calls: int) -> None:
        """End live calls. A bucket that counts them exists only while there are any."""
        balance.held -= calls
        if not balance.held:
            del self.balances[name]

    def tripped(self, name: str, now: int) -> bool:
        until = self.trips.get(name)
        return until is not None and (until == 0 or now < until)
