"""Batches of moves as what Lua unpacks with the least work, and their answers back.

A batch is one flat msgpack array, ``[how many rids, rids, how many other single keys, their names, then per move:
operation, number of fields, fields]``; fields refer to rids and names by their position, so that the script reads all
of them at once. Beside it stand the sets of buckets that the moves work on, each once, as a blob of its own: ``[name,
window_start, window_end, kind, limit, ceiling]`` per bucket. A lease keeps the blob as it is.

An answer is ``[now, seq, per move: kind, fields, then per set: how many buckets, their levels]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec

from llmguard.core.balances import SHARE
from llmguard.core.holds import Charges, Holds
from llmguard.core.moves import (
    Admitted,
    Answer,
    Assert,
    Begin,
    Charge,
    Correct,
    Done,
    Extend,
    Hold,
    Known,
    Load,
    Move,
    Open,
    Release,
    Renew,
    Reserve,
    Settle,
    Trip,
    Untrip,
)
from llmguard.core.runs import Enter, Leave, Paid, Peek, Tally
from llmguard.stores.redis.answers import DECODERS, VERDICTS, read_levels

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode

Fields = list[Any]


class Batch:
    """One batch on its way: :attr:`flat` and :attr:`blobs` go to the script, :meth:`answers` reads what comes back."""

    def __init__(self, moves: Sequence[Move]) -> None:
        self._moves = moves
        self._rids: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._sets: dict[bytes, int] = {}
        self._shown: list[int] = []
        body: Fields = []
        for move in moves:
            operation, encode = _ENCODERS[type(move)]
            fields = encode(self, move)
            body += (operation, len(fields))
            body += fields
        self.flat = _pack([len(self._rids), *self._rids, len(self._names), *self._names, *body])
        self.blobs = list(self._sets)

    def answers(self, reply: bytes) -> list[Answer]:
        """The answers, in the order of the moves."""
        read = iter(_unpack(reply)).__next__
        now, seq = read(), read()
        answers: list[Answer] = [DECODERS[read()](read, move, now, seq) for move in self._moves]
        levels = [read_levels(read, read()) for _ in self._sets]
        shown = iter(self._shown)
        for move, answer in zip(self._moves, answers, strict=True):
            if type(move) is Reserve or type(move) is Extend:
                place = next(shown)
                if type(answer) is Admitted or type(answer) is Done:
                    answer.levels = levels[place]
        return answers

    # ------------------------------------------------------------------ positions

    def rid(self, rid: str) -> int:
        return self._rids.setdefault(rid, len(self._rids) + 1)

    def rate(self, name: str) -> int:
        return self._names.setdefault("g:" + name, len(self._names) + 1)

    def trip(self, name: str) -> int:
        return self._names.setdefault("trip:" + name, len(self._names) + 1)

    def runs(self, key: str) -> int:
        return self._names.setdefault("own:" + key, len(self._names) + 1)

    def breaker(self, name: str) -> int:
        return self._names.setdefault("brk:" + name, len(self._names) + 1)

    def everything(self, name: str) -> Fields:
        """All that one name may stand for."""
        return [name, self.trip(name), self.runs(name), self.breaker(name)]

    def holds(self, holds: Sequence[Hold]) -> int:
        if type(holds) is Holds:
            kept = holds.plan.kept
            blob = kept.get("holds") or kept.setdefault("holds", _hold_set(holds))
            return self._sets.setdefault(blob, len(self._sets) + 1)
        return self._sets.setdefault(_hold_set(holds), len(self._sets) + 1)

    def shown(self, holds: Sequence[Hold]) -> int:
        """The same for a move whose answer shows their levels."""
        place = self.holds(holds)
        self._shown.append(place - 1)
        return place

    def charges(self, charges: Sequence[Charge]) -> int:
        if type(charges) is Charges:
            kept = charges.plan.kept
            blob = kept.get("charges") or kept.setdefault("charges", _charge_set(charges))
            return self._sets.setdefault(blob, len(self._sets) + 1)
        return self._sets.setdefault(_charge_set(charges), len(self._sets) + 1)


def _hold_set(holds: Sequence[Hold]) -> bytes:
    fields: Fields = []
    for h in holds:
        kind = -1 if h.concurrency else h.rolling_ms
        fields += (h.name, h.window_start, h.window_end, kind, h.limit, h.ceiling)
    return _pack(fields)


def _charge_set(charges: Sequence[Charge]) -> bytes:
    fields: Fields = []
    for c in charges:
        fields += (c.name, 0, c.window_end, -1 if c.concurrency else c.rolling_ms, 0, 0)
    return _pack(fields)


def _amounts(holds: Sequence[Hold], fields: Fields) -> Fields:
    if type(holds) is Holds:
        fields += holds.amounts()
        return fields
    for h in holds:
        fields += (h.estimate, h.fixed, h.per_output)
    return fields


def _alerts(holds: Sequence[Hold], fields: Fields) -> Fields:
    if type(holds) is Holds:
        kept = holds.plan.kept
        fields += kept.get("alerts") or kept.setdefault("alerts", _marks(holds))
    else:
        fields += _marks(holds)
    return fields


def _marks(holds: Sequence[Hold]) -> Fields:
    marks = [(index, mark) for index, hold in enumerate(holds) for mark in hold.alerts]
    return [len(marks), *chain.from_iterable(marks)]


def _tallies(tallies: Sequence[Tally], fields: Fields) -> Fields:
    fields.append(len(tallies))
    for t in tallies:
        fields += (t.scope, t.name, t.limit, t.keep_ms, t.add)
    return fields


def _corrections(corrections: Sequence[Correct], fields: Fields, batch: Batch) -> Fields:
    fields.append(len(corrections))
    for c in corrections:
        fields += (batch.rate(c.name), c.limit, c.period_ms, c.difference)
    return fields


def _reserve(batch: Batch, move: Reserve) -> Fields:
    fields = [
        batch.rid(move.rid),
        move.owner,
        move.lease_ms,
        int(move.part),
        move.max_output,
        0 if not move.clamp else 1 if move.named else SHARE,
        move.floor,
        move.seq,
        move.rules,
        batch.shown(move.holds),
        len(move.trips),
        *[batch.trip(trip) for trip in move.trips],
        len(move.rates),
    ]
    for r in move.rates:
        fields += (batch.rate(r.name), r.limit, r.period_ms, r.cost)
    _tallies(move.tallies, fields)
    return _alerts(move.holds, _amounts(move.holds, fields))


def _extend(batch: Batch, move: Extend) -> Fields:
    fields = [batch.rid(move.rid), move.lease_ms, batch.shown(move.holds)]
    return _alerts(move.holds, _amounts(move.holds, fields))


def _renew(batch: Batch, move: Renew) -> Fields:
    fields: Fields = [move.owner, move.lease_ms, len(move.rids), *[batch.rid(rid) for rid in move.rids]]
    fields.append(len(move.runs))
    for key, run_id in move.runs:
        fields += (batch.runs(key), run_id)
    return fields


def _settle(batch: Batch, move: Settle) -> Fields:
    charges = move.charges
    amounts = charges.amounts() if type(charges) is Charges else [charge.amount for charge in charges]
    fields = [batch.rid(move.rid), move.rev, move.at, batch.charges(charges), *amounts]
    return _tallies(move.tallies, _corrections(move.corrections, fields, batch))


def _release(batch: Batch, move: Release) -> Fields:
    return _tallies(move.tallies, _corrections(move.corrections, [batch.rid(move.rid)], batch))


def _assert(batch: Batch, move: Assert) -> Fields:
    fields = [batch.rid(move.rid), move.owner, move.lease_ms, move.max_output, batch.holds(move.holds)]
    return _amounts(move.holds, fields)


def _trip(batch: Batch, move: Trip) -> Fields:
    return [batch.trip(move.name), move.until]


def _untrip(batch: Batch, move: Untrip) -> Fields:
    return batch.everything(move.name)


def _known(batch: Batch, move: Known) -> Fields:
    return [len(move.rids), *[batch.rid(rid) for rid in move.rids]]


def _begin(batch: Batch, move: Begin) -> Fields:
    return [move.lease_ms, int(move.rebuild)]


def _load(batch: Batch, move: Load) -> Fields:
    fields: Fields = [move.fence, len(move.sums)]
    for c in move.sums:
        fields += (c.name, str(c.amount), c.window_end, c.rolling_ms)  # as digits, exact beyond 2^53
    fields.append(len(move.counted))
    for counted in move.counted:
        amounts = [charge.amount for charge in counted.charges]
        fields += (batch.rid(counted.rid), counted.rev, len(amounts), *amounts)
    return fields


def _open(batch: Batch, move: Open) -> Fields:
    return [move.fence, move.grace_ms]


def _enter(batch: Batch, move: Enter) -> Fields:
    fields: Fields = [
        batch.runs(move.key),
        move.run_id,
        batch.breaker(move.name),
        move.lease_ms,
        -1 if move.max_paid is None else move.max_paid,
        -1 if move.max_lost is None else move.max_lost,
        *(move.breaker or (-1, 0, 0)),
        *(move.retry or (-1, 0)),
        int(move.is_retry),
        *[int(verdict in move.warn_only) for verdict in VERDICTS[1:]],
        len(move.trips),
        *[batch.trip(trip) for trip in move.trips],
    ]
    return _tallies(move.tallies, fields)


def _leave(batch: Batch, move: Leave) -> Fields:
    flags = (int(move.succeeded), int(move.paid), int(move.done))
    return [batch.runs(move.key), move.run_id, batch.breaker(move.name), *flags]


def _paid(batch: Batch, move: Paid) -> Fields:
    return [batch.runs(move.key), move.run_id]


def _peek(batch: Batch, move: Peek) -> Fields:
    return [len(move.names), *[field for name in move.names for field in batch.everything(name)]]


_ENCODERS: dict[type[Any], tuple[int, Callable[[Batch, Any], Fields]]] = {
    Reserve: (1, _reserve),
    Extend: (2, _extend),
    Renew: (3, _renew),
    Settle: (4, _settle),
    Release: (5, _release),
    Assert: (6, _assert),
    Trip: (7, _trip),
    Untrip: (8, _untrip),
    Known: (9, _known),
    Begin: (10, _begin),
    Load: (11, _load),
    Open: (12, _open),
    Enter: (13, _enter),
    Leave: (14, _leave),
    Paid: (15, _paid),
    Peek: (16, _peek),
}
