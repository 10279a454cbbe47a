"""Batches of moves as one flat msgpack array, and their answers back.

A batch is ``[n, n names of single keys, then per move: operation, number of fields, fields]``; fields refer to those
names by their position, so that the script reads all of them at once. An answer is ``[now, seq, then per move: kind,
fields]``. Flat arrays of integers are what Lua unpacks and packs with the least work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from llmguard.core.balances import SHARE
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
    Level,
    Load,
    Move,
    Open,
    Release,
    Renew,
    Reserve,
    Settle,
    Trip,
    Turn,
    Untrip,
)

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode

_REFUSED = ("", "too_large", "spent", "insufficient", "contended", "tripped", "concurrency", "rate")
_AGAIN = ("", "cold", "stale", "window", "gone")

Fields = list[Any]
Names = dict[str, int]


def encode(moves: Sequence[Move]) -> bytes:
    """The argument of the script for this batch."""
    names: Names = {}
    body: Fields = []
    for move in moves:
        operation, encoder = _ENCODERS[type(move)]
        fields = encoder(move, names)
        body += (operation, len(fields))
        body += fields
    return _pack([len(names), *names, *body])


def _name(names: Names, name: str) -> int:
    return names.setdefault(name, len(names) + 1)


def _rid(names: Names, rid: str) -> int:
    return names.setdefault("r:" + rid, len(names) + 1)


def _holds(holds: Sequence[Hold], fields: Fields) -> Fields:
    fields.append(len(holds))
    for h in holds:
        fields += (
            h.name,
            h.limit,
            h.ceiling,
            h.estimate,
            h.fixed,
            h.per_output,
            h.window_start,
            h.window_end,
            -1 if h.concurrency else h.rolling_ms,
        )
    return fields


def _alerts(holds: Sequence[Hold], fields: Fields) -> Fields:
    fields.append(0)
    count = len(fields) - 1
    for index, hold in enumerate(holds):
        for mark in hold.alerts:
            fields[count] += 1
            fields += (index, mark)
    return fields


def _charges(charges: Sequence[Charge], fields: Fields) -> Fields:
    fields.append(len(charges))
    for c in charges:
        fields += (c.name, c.amount, c.window_end, -1 if c.concurrency else c.rolling_ms)
    return fields


def _corrections(corrections: Sequence[Correct], fields: Fields, names: Names) -> Fields:
    fields.append(len(corrections))
    for c in corrections:
        fields += (_name(names, "g:" + c.name), c.limit, c.period_ms, c.difference)
    return fields


def _reserve(move: Reserve, names: Names) -> Fields:
    share = 0 if not move.clamp else 1 if move.named else SHARE
    fields = [
        _rid(names, move.rid),
        move.owner,
        move.lease_ms,
        int(move.part),
        move.max_output,
        share,
        move.floor,
        move.seq,
        move.rules,
        len(move.trips),
        *[_name(names, "trip:" + trip) for trip in move.trips],
        len(move.rates),
    ]
    for r in move.rates:
        fields += (_name(names, "g:" + r.name), r.limit, r.period_ms, r.cost)
    return _alerts(move.holds, _holds(move.holds, fields))


def _extend(move: Extend, names: Names) -> Fields:
    return _alerts(move.holds, _holds(move.holds, [_rid(names, move.rid), move.lease_ms]))


def _renew(move: Renew, names: Names) -> Fields:
    return [move.owner, move.lease_ms, len(move.rids), *[_rid(names, rid) for rid in move.rids]]


def _settle(move: Settle, names: Names) -> Fields:
    fields = _charges(move.charges, [_rid(names, move.rid), move.rev, move.at])
    return _corrections(move.corrections, fields, names)


def _release(move: Release, names: Names) -> Fields:
    return _corrections(move.corrections, [_rid(names, move.rid)], names)


def _assert(move: Assert, names: Names) -> Fields:
    return _holds(move.holds, [_rid(names, move.rid), move.owner, move.lease_ms, move.max_output])


def _trip(move: Trip, names: Names) -> Fields:
    return [_name(names, "trip:" + move.name), move.until]


def _untrip(move: Untrip, names: Names) -> Fields:
    return [_name(names, "trip:" + move.name)]


def _known(move: Known, names: Names) -> Fields:
    return [len(move.rids), *[_rid(names, rid) for rid in move.rids]]


def _begin(move: Begin, names: Names) -> Fields:
    return [move.lease_ms, int(move.rebuild)]


def _load(move: Load, names: Names) -> Fields:
    fields: Fields = [move.fence, len(move.sums)]
    for c in move.sums:
        fields += (c.name, str(c.amount), c.window_end, c.rolling_ms)
    fields.append(len(move.counted))
    for counted in move.counted:
        amounts = [charge.amount for charge in counted.charges]
        fields += (_rid(names, counted.rid), counted.rev, len(amounts), *amounts)
    return fields


def _open(move: Open, names: Names) -> Fields:
    return [move.fence, move.grace_ms]


_ENCODERS: dict[type[Any], tuple[int, Callable[[Any, Names], Fields]]] = {
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
}


def decode(reply: bytes, moves: Sequence[Move]) -> list[Answer]:
    """The answers of a batch, in the order of its ``moves``."""
    read = iter(_unpack(reply)).__next__
    now, seq = read(), read()
    return [_DECODERS[read()](read, move, now, seq) for move in moves]


Read = Callable[[], Any]


def _levels(read: Read, count: int) -> tuple[Level, ...]:
    return tuple([Level(read(), read(), read(), read()) for _ in range(count)])


def _pairs(read: Read, count: int) -> tuple[tuple[int, int], ...]:
    return tuple([(read(), read()) for _ in range(count)]) if count else ()


def _admitted(read: Read, move: Reserve, now: int, seq: int) -> Answer:
    max_output, again = read(), read()
    levels = _levels(read, len(move.holds))
    rates = _pairs(read, len(move.rates))
    return Admitted(now, seq, None if max_output < 0 else max_output, levels, rates, again == 1, _pairs(read, read()))


def _denied(read: Read, move: Move, now: int, seq: int) -> Answer:
    why, index, retry_ms = _REFUSED[read()], read(), read()
    level = _levels(read, 1)[0] if read() else None
    return Denied(now, why, index, level, retry_ms, _pairs(read, read()))


def _done(read: Read, move: Move, now: int, seq: int) -> Answer:
    changed = read() == 1
    levels = _levels(read, read())
    gone = [read() for _ in range(read())]
    rids = move.rids if isinstance(move, Renew | Known) else ()
    return Done(now, changed, levels, tuple([rids[index] for index in gone]))


def _again(read: Read, move: Move, now: int, seq: int) -> Answer:
    return Again(now, _AGAIN[read()])


def _turn(read: Read, move: Move, now: int, seq: int) -> Answer:
    return Turn(now, read())


_DECODERS: tuple[Callable[[Read, Any, int, int], Answer], ...] = (_again, _admitted, _denied, _done, _again, _turn)
