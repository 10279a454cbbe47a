"""How a record is written down: `length | crc32c | seq | payload`, the payload being msgpack of `[kind, record]`.

The sequence number seeds the checksum, so a frame is good only in its own place. Records are named tuples and travel as
arrays; unpacked again, an entry is at once the row's SQL parameters.
"""

from __future__ import annotations

import sys
from struct import Struct
from typing import Any, NamedTuple, cast

import google_crc32c
import msgspec

from llmguard.core.records import (
    BucketCharge,
    HoldRecord,
    Kind,
    PartialRecord,
    Record,
    SentRecord,
    SettleRecord,
    VoidRecord,
)

HEADER = Struct("<IIQ")
_SEED = 0xFFFFFFFF
# A msgpack array of two (0x92) and a small integer stand before the record.
_KIND_AT = HEADER.size + 1
_RECORD_AT = 2

KINDS: dict[type, int] = {
    HoldRecord: int(Kind.HOLD),
    SentRecord: int(Kind.SENT),
    PartialRecord: int(Kind.PARTIAL),
    SettleRecord: int(Kind.SETTLE),
    VoidRecord: int(Kind.VOID),
}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(record) for record, kind in KINDS.items()
}
_charges = msgspec.msgpack.Decoder(tuple[BucketCharge, ...])

encode = msgspec.msgpack.Encoder().encode


class Scan(NamedTuple):
    """What a stretch of a segment holds.

    ``frames`` are (sequence number, payload); ``used`` is how many bytes were gone through, ``seq`` the next number.
    """

    frames: list[tuple[int, bytes]]
    used: int
    seq: int


def frame(seq: int, payload: bytes) -> bytes:
    """The bytes of one frame."""
    return HEADER.pack(len(payload), google_crc32c.extend(seq & _SEED, payload), seq) + payload


def scan(data: bytes, seq: int, limit: int, *, last: int | None = None, only: int | None = None) -> Scan:
    """The good frames at the start of ``data``, beginning with number ``seq``; ends before the first that is not whole.

    Takes at most ``limit`` frames, none beyond number ``last``. With ``only``, frames of other kinds are passed over
    unverified, for a reader that knows they were written.
    """
    found: list[tuple[int, bytes]] = []
    at, size = 0, len(data)
    if last is None:
        last = sys.maxsize
    while at + _KIND_AT < size and seq <= last and len(found) < limit:
        length, crc, number = HEADER.unpack_from(data, at)
        start = at + HEADER.size
        end = start + length
        if not length or number != seq or end > size:
            break
        if only is None or data[at + _KIND_AT] == only:
            payload = data[start:end]
            if google_crc32c.extend(seq & _SEED, payload) != crc:
                break
            found.append((seq, payload))
        at, seq = end, seq + 1
    return Scan(found, at, seq)


def decode(payload: bytes) -> Record:
    """The record in a payload."""
    return cast("Record", _DECODERS[payload[1]].decode(memoryview(payload)[_RECORD_AT:]))


def encode_charges(charges: tuple[BucketCharge, ...]) -> bytes:
    """Bucket charges as they are kept beside their entry."""
    return encode(charges)


def decode_charges(data: bytes) -> tuple[BucketCharge, ...]:
    """The inverse of :func:`encode_charges`."""
    return _charges.decode(data)
