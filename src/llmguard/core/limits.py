"""The lease table: every change that a quota store may make, as one pure function over plain state.

One call has one lease, named by its rid. These are all the moves; anything else is an answer, not a change::

    from      to                     by
    -         held                   reserve
    held      held                   renew, extend
    held      settled, released      settle, release
    held      orphan                 reap (the lease ran out: the call is presumed dispatched, its estimate is charged)
    orphan    settled, released      a late settle or release replaces the orphan charge
    orphan    held                   renew
    released  settled                settle: a bill that came after all
    settled   settled                settle with a higher revision: the difference
    unknown   released               release that overtakes its reserve, which is then refused
    unknown   settled                settle of a call that ended less than the horizon ago
    unknown   held                   assert of a live lease under a new epoch

:class:`Book` is the reference: ``stores.memory`` wraps it, ``stores/redis/lua`` says the same in Lua, and one suite
compares the two answer by answer. Time is a parameter; a batch of moves has one time and is all there is to atomicity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmguard.core import gcra, loading, running, tallies
from llmguard.core.balances import EMPTY, LASTING, Balance, cap, least_output, lowered_output, refusal
from llmguard.core.leases import HORIZON_MS, Lease, State, Status, Taken, Tombstone
from llmguard.core.moves import (
    Admitted,
    Again,
    Answer,
    Assert,
    Begin,
    Charge,
    Correct,
    Denied,
    Done,
    Extend,
    Hold,
    Known,
    Load,
    Move,
    Open,
    Part,
    Release,
    Renew,
    Reserve,
    Settle,
    Trip,
    Untrip,
)
from llmguard.core.runs import Enter, Leave, Paid, Peek

EXPOSED_MS = 15 * 60_000
"""How long the rest of an orphan's cap stays exposed after its lease ran out."""

REAPED = 32
"""Leases reaped per batch."""

_GATE, _MONEY, _BOTH = int(Part.GATE), int(Part.MONEY), int(Part.BOTH)  # enum flags cost half a microsecond each

Buckets = list[tuple[Hold, Balance]]
Crossed = tuple[tuple[int, int], ...]


class Book(State):
    """All state of one namespace and its moves. It starts cold: until it is loaded, moves are answered `cold`."""

    def apply(self, moves: Sequence[Move], now: int) -> list[Answer]:
        """Apply a batch at one time. Answers are in the order of the moves."""
        if self.epoch:
            self._reap(now)
        self.forget(now)
        seen = self.seq
        self.seq += 1
        answers: list[Answer] = []
        shown: list[tuple[Admitted | Done, Sequence[Hold]]] = []
        for move in moves:
            if isinstance(move, Reserve) and self.epoch and move.seq > seen:
                # The store has forgotten writes (a failover, an old dump): nothing in it can be trusted.
                self.seq, self.epoch = max(self.seq, move.seq), 0
            kind = type(move)
            answer = _TABLE[kind](self, move, now) if self.epoch or kind in _WITHOUT_EPOCH else Again(now, "cold")
            if isinstance(move, (Reserve, Extend)) and isinstance(answer, (Admitted, Done)):
                shown.append((answer, move.holds))
            answers.append(answer)
        for answer, holds in shown:
            answer.levels = tuple([(self.balance(hold.name, now) or EMPTY).level() for hold in holds])
        return answers

    # ------------------------------------------------------------------ reserve

    def _reserve(self, move: Reserve, now: int) -> Answer:
        if now < self.epoch:
            return Again(now, "cold")
        if move.rules < self.rules:
            return Again(now, "stale")
        self.rules = move.rules
        lease = self.record(move.rid, now)
        part = int(move.part)
        if lease is None:
            missing = _BOTH if part == _MONEY else part
        elif isinstance(lease, Lease) and lease.status is Status.HELD:
            missing = part & ~lease.parts
        else:
            return Again(now, "gone")
        buckets = [(hold, self.balance(hold.name, now) or EMPTY) for hold in move.holds]
        if lease and not missing:
            return self._admitted(move, lease, now, again=True)
        for hold in move.holds:
            if hold.window_end and not hold.window_start <= now < hold.window_end:
                return Again(now, "window")
        denied = self._gate(move, buckets, now) if missing & _GATE else None
        if denied is None and missing & _MONEY:
            denied = self._money(move, buckets, now)
            if denied and lease:
                self._ungate(move, lease, now)
        return denied or self._take(move, lease, missing, buckets, now)

    def _gate(self, move: Reserve, buckets: Buckets, now: int) -> Denied | None:
        for index, name in enumerate(move.trips):
            if self.tripped(name, now):
                return Denied(now, "tripped", index)
        for index, (hold, balance) in enumerate(buckets):
            if hold.concurrency and balance.held + hold.estimate > hold.limit:
                return Denied(now, "concurrency", index, balance.level())
        for index, rate in enumerate(move.rates):
            wait = gcra.wait_ms(self.meters, rate, now)
            if wait is not None:
                return Denied(now, "rate", index, None, wait)
        over = tallies.over(self.scopes, move.tallies, now)
        return None if over is None else Denied(now, "tally", over)

    def _money(self, move: Reserve, buckets: Buckets, now: int) -> Denied | None:
        least = least_output(move)
        reasons = [None if h.concurrency else refusal(h, balance, cap(h, least)) for h, balance in buckets]
        return self._denied(move.holds, reasons, now)

    def _denied(self, holds: Sequence[Hold], reasons: Sequence[str | None], now: int) -> Denied | None:
        """The most lasting of the ``reasons`` as an answer, counted in its bucket."""
        why = next((why for why in LASTING if why in reasons), None)
        if why is None:
            return None
        index = reasons.index(why)
        hold = holds[index]
        balance = self.open(hold.name, hold.window_end, hold.rolling_ms, now)
        if balance:
            balance.denied += 1
        return Denied(now, why, index, (balance or EMPTY).level(), crossed=self._crossed(holds, now))

    def _ungate(self, move: Reserve, lease: Lease, now: int) -> None:
        """Undo the gate of a call that was denied the money, as if it had never come."""
        for rate in move.rates:
            gcra.fill(self.meters, rate, -rate.cost, now)
        tallies.take_back(self.scopes, move.tallies, now)
        self._withdraw(lease, now)
        del self.records[move.rid]

    def _take(self, move: Reserve, lease: Lease | None, parts: int, buckets: Buckets, now: int) -> Admitted:
        if lease is None:
            lease = self.records[move.rid] = Lease(move.owner, now)
        output = move.max_output
        if parts & _GATE:
            for rate in move.rates:
                gcra.fill(self.meters, rate, rate.cost, now)
            tallies.add(self.scopes, move.tallies, now)
        if parts & _MONEY:
            output = lowered_output(move, buckets)
            lease.max_output = output if output < move.max_output else None
        for hold, balance in buckets:
            if parts & (_GATE if hold.concurrency else _MONEY):
                self._hold(lease, hold, balance, output, now)
        lease.parts |= parts
        self.push(move.rid, lease, now + move.lease_ms)
        crossed = self._crossed(move.holds, now) if parts & _MONEY else ()
        return self._admitted(move, lease, now, crossed=crossed)

    def _admitted(self, move: Reserve, lease: Lease, now: int, again: bool = False, crossed: Crossed = ()) -> Admitted:
        rates = gcra.left(self.meters, move.rates, now) if move.rates else ()
        counted = tallies.counts(self.scopes, move.tallies, now) if move.tallies else ()
        return Admitted(now, self.seq, lease.max_output, (), rates, again, crossed, counted)

    def _crossed(self, holds: Sequence[Hold], now: int) -> Crossed:
        found: list[tuple[int, int]] = []
        for index, hold in enumerate(holds):
            balance = self.balance(hold.name, now) if hold.alerts else None
            if balance:
                found += [(index, mark) for mark in balance.crossed(hold.alerts)]
        return tuple(found)

    # ------------------------------------------------------------------ extend, assert, renew

    def _extend(self, move: Extend, now: int) -> Answer:
        lease = self.record(move.rid, now)
        if not isinstance(lease, Lease) or lease.status is not Status.HELD:
            return Again(now, "gone")
        had = {taken.name: taken for taken in lease.taken}
        denied = self._denied(move.holds, [self._grown(hold, had.get(hold.name), now) for hold in move.holds], now)
        if denied:
            return denied
        raised = {hold.name for hold in move.holds if not hold.concurrency}
        self._withdraw(lease, now, only=raised)
        lease.taken = [taken for taken in lease.taken if taken.name not in raised]
        for hold in move.holds:
            if not hold.concurrency:
                self._hold(lease, hold, EMPTY, 0, now)
        self.push(move.rid, lease, now + move.lease_ms)
        return Done(now, True)

    def _grown(self, hold: Hold, had: Taken | None, now: int) -> str | None:
        """Why a raised hold does not fit. One that does not grow is never refused."""
        estimate, exposed = (had.estimate, had.cap) if had else (0, 0)
        if hold.concurrency or (hold.estimate <= estimate and cap(hold, 0) <= exposed):
            return None
        return refusal(hold, self.balance(hold.name, now) or EMPTY, cap(hold, 0), estimate, exposed)

    def _assert(self, move: Assert, now: int) -> Answer:
        if self.record(move.rid, now):
            return Done(now, False)
        lease = self.records[move.rid] = Lease(move.owner, now)
        lease.parts = _BOTH
        for hold in move.holds:
            self._hold(lease, hold, EMPTY, move.max_output, now)
        self.push(move.rid, lease, now + move.lease_ms)
        return Done(now, True)

    def _hold(self, lease: Lease, hold: Hold, balance: Balance, max_output: int, now: int) -> None:
        """Enter ``hold`` in the lease and its bucket, which is looked up or made where ``balance`` is EMPTY."""
        worst = 0 if hold.concurrency else cap(hold, max_output)
        lease.seq = self.seq
        lease.taken.append(Taken(hold.name, hold.estimate, worst, hold.window_end, hold.rolling_ms, hold.concurrency))
        found = balance if balance is not EMPTY else self.open(hold.name, hold.window_end, hold.rolling_ms, now)
        if found:
            found.held += hold.estimate
            found.exposure += worst

    def _renew(self, move: Renew, now: int) -> Answer:
        gone = []
        for rid in move.rids:
            lease = self.record(rid, now)
            if not isinstance(lease, Lease) or lease.owner != move.owner:
                gone.append(rid)
                continue
            if lease.status is Status.ORPHAN:
                self._revive(lease, now)
            self.push(rid, lease, now + move.lease_ms)
        running.renew(self, move.runs, move.lease_ms, now)
        return Done(now, len(gone) < len(move.rids), gone=tuple(gone))

    def _revive(self, lease: Lease, now: int) -> None:
        for taken in lease.taken:
            if taken.concurrency:
                self.open(taken.name, 0, 0, now)
        for taken, balance in self.touched(lease, now):
            balance.held += taken.estimate
            if not taken.concurrency:
                balance.charge(taken.slot(lease.at), 0, -taken.estimate)
                balance.exposure += taken.estimate if lease.due else taken.cap
        lease.status = Status.HELD
        lease.until = 0

    # ------------------------------------------------------------------ settle, release, reap

    def _settle(self, move: Settle, now: int) -> Answer:
        record = self.record(move.rid, now)
        before: tuple[int, ...] = ()
        if record is None:
            if now - move.at >= HORIZON_MS:
                return Again(now, "gone")
        elif isinstance(record, Lease):
            self._withdraw(record, now)
            self._correct(move.corrections, now)
            tallies.take_back(self.scopes, move.tallies, now)
        elif move.rev <= record.rev:
            return Done(now, False)
        else:
            before = record.amounts
        for index, charge in enumerate(move.charges):
            if not charge.concurrency:
                self._charge(charge, before[index] if index < len(before) else 0, now)
        amounts = tuple([charge.amount for charge in move.charges])
        self.keep(move.rid, Tombstone(Status.SETTLED, 0, move.rev, amounts), now + HORIZON_MS)
        return Done(now, True)

    def _charge(self, charge: Charge, before: int, now: int) -> None:
        balance = self.open(charge.name, charge.window_end, charge.rolling_ms, now)
        if balance:
            balance.charge(loading.charge_slot(charge), charge.amount - before)

    def _release(self, move: Release, now: int) -> Answer:
        record = self.record(move.rid, now)
        if isinstance(record, Tombstone):
            return Done(now, False)
        if record:
            self._withdraw(record, now)
            self._correct(move.corrections, now)
            tallies.take_back(self.scopes, move.tallies, now)
        self.keep(move.rid, Tombstone(Status.RELEASED, 0), now + HORIZON_MS)
        return Done(now, True)

    def _withdraw(self, lease: Lease, now: int, only: set[str] | None = None) -> None:
        """Take out of the buckets what the lease has in them, as a hold or as an orphan charge."""
        live = lease.status is Status.HELD
        for taken, balance in self.touched(lease, now):
            if only is not None and taken.name not in only:
                continue
            if taken.concurrency:
                if live:
                    self.give_back(taken.name, balance, taken.estimate)
            elif live:
                balance.held -= taken.estimate
                balance.exposure -= taken.cap
            else:
                balance.charge(taken.slot(lease.at), 0, -taken.estimate)
                balance.exposure -= taken.cap - taken.estimate if lease.due else 0

    def _correct(self, corrections: Sequence[Correct], now: int) -> None:
        for correction in corrections:
            gcra.fill(self.meters, correction, correction.difference, now)

    def _reap(self, now: int) -> None:
        for rid, lease in self.take_due(now, REAPED):
            if lease.status is Status.HELD:
                self._orphan(rid, lease, now)
            else:
                for taken, balance in self.touched(lease, now):
                    balance.exposure -= 0 if taken.concurrency else taken.cap - taken.estimate
                lease.due = 0

    def _orphan(self, rid: str, lease: Lease, now: int) -> None:
        until = now + HORIZON_MS
        for taken, balance in self.touched(lease, now):
            if taken.concurrency:
                self.give_back(taken.name, balance, taken.estimate)
                continue
            balance.held -= taken.estimate
            balance.charge(taken.slot(lease.at), 0, taken.estimate)
            balance.exposure -= taken.estimate
            until = max(until, balance.expires) if until and balance.expires else 0
        lease.status = Status.ORPHAN
        self.push(rid, lease, lease.due + EXPOSED_MS)
        self.keep(rid, lease, until)


_WITHOUT_EPOCH = frozenset((Begin, Load, Open, Enter, Leave, Paid, Peek))
"""What a cold store does, too: its loading, and what needs no ledger."""

_TABLE: dict[type[Any], Callable[[Book, Any, int], Answer]] = {
    Reserve: Book._reserve,
    Extend: Book._extend,
    Renew: Book._renew,
    Settle: Book._settle,
    Release: Book._release,
    Assert: Book._assert,
    Trip: running.trip,
    Untrip: running.untrip,
    Known: loading.known,
    Begin: loading.begin,
    Load: loading.load,
    Open: loading.open_epoch,
    Enter: running.enter,
    Leave: running.leave,
    Paid: running.paid,
    Peek: running.peek,
}
