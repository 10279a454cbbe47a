"""Frames of the spool."""

from __future__ import annotations

import random

import pytest

from llmguard.core.records import Record, SettleRecord, VoidRecord
from llmguard.ledger import codec
from tests.support.ledger import entry, hold, partial, sent, settle

CALL = entry(random.Random(1), metadata='{"a": "ä"}')
RECORDS: list[Record] = [
    hold(CALL),
    sent(CALL),
    partial(CALL, 77),
    settle(CALL, objects=(("response", "resp_1"),), deleted=(("file", "f_1"),)),
    VoidRecord(CALL.event_id),
]


def frame(seq: int, record: Record) -> bytes:
    return codec.frame(seq, codec.encode((codec.KINDS[type(record)], record)))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    found = codec.scan(frame(7, record), 7, 10)
    assert [(seq, codec.decode(payload)) for seq, payload in found.frames] == [(7, record)]
    assert type(codec.decode(found.frames[0][1])) is type(record)
    assert found.seq == 8
    assert found.used == len(frame(7, record))


def test_a_record_older_than_the_last_field_of_an_entry_is_still_read() -> None:
    *older, model = CALL
    assert model == "gpt-4o"
    payload = codec.encode((4, (older, settle(CALL).buckets)))
    record = codec.decode(payload)
    assert isinstance(record, SettleRecord)
    assert record.entry == CALL._replace(model="")


def test_charges_come_back_as_they_were() -> None:
    charges = settle(CALL).buckets
    assert codec.decode_charges(codec.encode_charges(charges)) == charges


def test_any_changed_bit_ends_the_good_frames() -> None:
    data = frame(1, RECORDS[0]) + frame(2, RECORDS[1]) + frame(3, RECORDS[2])
    second = len(frame(1, RECORDS[0]))
    third = second + len(frame(2, RECORDS[1]))
    for at in range(second, third):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        assert [seq for seq, _ in codec.scan(bytes(damaged), 1, 10).frames] == [1], f"byte {at}"


def test_a_frame_is_good_only_in_its_place() -> None:
    assert codec.scan(frame(2, RECORDS[1]), 1, 10).frames == []
    assert codec.scan(frame(1, RECORDS[1]) + frame(3, RECORDS[1]), 1, 10).seq == 2


def test_a_stretch_cut_anywhere_gives_its_whole_frames() -> None:
    data = b"".join(frame(seq, record) for seq, record in enumerate(RECORDS, 1))
    ends = [sum(len(frame(1, record)) for record in RECORDS[:count]) for count in range(len(RECORDS) + 1)]
    for cut in range(len(data)):
        whole = sum(end <= cut for end in ends) - 1
        found = codec.scan(data[:cut], 1, 10)
        assert (len(found.frames), found.used, found.seq) == (whole, ends[whole], whole + 1), f"cut at {cut}"


def test_a_reader_may_stop_early_or_take_one_kind() -> None:
    data = b"".join(frame(seq, record) for seq, record in enumerate(RECORDS, 1))
    assert [seq for seq, _ in codec.scan(data, 1, 2).frames] == [1, 2]
    assert [seq for seq, _ in codec.scan(data, 1, 10, last=3).frames] == [1, 2, 3]
    only = codec.scan(data, 1, 10, only=4)
    assert [codec.decode(payload) for _, payload in only.frames] == [RECORDS[3]]
    assert only.seq == 6
