"""The spool: room, order, survival and what is left on the disk."""

from __future__ import annotations

import os
import random
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmguard.core.records import HoldRecord, PartialRecord, Record, SettleRecord, VoidRecord
from llmguard.errors import GuardUnavailable, SpoolFull
from llmguard.ledger.adopt import read_spool, segments
from llmguard.ledger.segment import MAGIC, Segment
from llmguard.ledger.spool import Spool
from tests.support.ledger import entry, hold, partial, seed, sent, settle

KIB = 1024


def small(directory: Path, **options: int) -> Spool:
    """Room for about 14 holds or settles in a segment, and for as many in the reserve."""
    sizes = {"segment_bytes": 8 * KIB, "reserve_bytes": 8 * KIB, "quota_bytes": 64 * KIB}
    return Spool(directory, **(sizes | options))


def written(spool: Spool) -> list[Record]:
    assert spool.path is not None
    return [record for _, record in read_spool(spool.path)]


def fill(spool: Spool, rng: random.Random) -> list[HoldRecord]:
    """New work until there is no room for it."""
    holds: list[HoldRecord] = []
    try:
        while True:
            record = hold(entry(rng))
            spool.append(record)
            holds.append(record)
    except SpoolFull:
        return holds


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path / "spool")
    records: list[Record] = []
    for _ in range(30):
        call = entry(rng)
        records += [hold(call), sent(call), partial(call, 10), settle(call)]
    for record in records:
        spool.append(record)
    assert written(spool) == records
    assert spool.seq == len(records)
    assert spool.running == 0
    assert len(spool.parts()) > 3


def test_nothing_exists_before_the_first_record(tmp_path: Path) -> None:
    Spool(tmp_path / "spool")
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_can_look(tmp_path: Path) -> None:
    spool = small(tmp_path / "spool")
    spool.append(hold(entry(random.Random(1))))
    assert spool.path is not None
    assert {path.stat().st_mode & 0o777 for path in (spool.directory, spool.path)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in spool.path.iterdir()} == {0o600}


def test_a_record_larger_than_a_segment_gets_a_larger_one(tmp_path: Path) -> None:
    spool = small(tmp_path)
    call = entry(random.Random(1), metadata="x" * 20 * KIB)
    spool.append(settle(call))
    spool.append(settle(call))
    assert written(spool) == [settle(call)] * 2


def test_new_work_is_refused_when_the_quota_is_used_up_and_running_calls_finish(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    holds = fill(spool, rng)
    assert spool.used == 64 * KIB
    settles: list[Record] = [settle(record.entry) for record in holds[:5]]
    for record in settles:
        spool.append(record)
    spool.append(VoidRecord(holds[5].entry.event_id))
    with pytest.raises(SpoolFull):
        spool.append(hold(entry(rng)))
    assert written(spool) == [*holds, *settles, VoidRecord(holds[5].entry.event_id)]


def test_progress_is_dropped_rather_than_written_into_the_reserve(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    holds = fill(spool, rng)
    while spool.parts()[-1].size == 8 * KIB and spool.used == 64 * KIB:
        spool.append(sent(holds[0].entry))
    before = spool.seq
    spool.append(PartialRecord(holds[0].entry.event_id, 1, 1))
    assert spool.seq == before


def test_with_the_reserve_used_up_even_a_settle_fails(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    fill(spool, rng)
    room = 0
    try:
        while True:
            spool.append(settle(entry(rng)))
            room += 1
    except SpoolFull as error:
        assert "quota" in str(error)  # noqa: PT017 - how many went before is counted, too
    assert 10 < room < 20


def test_shipping_makes_room_again(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    holds = fill(spool, rng)
    for record in holds:
        spool.append(VoidRecord(record.entry.event_id))
    with pytest.raises(SpoolFull):
        spool.append(hold(entry(rng)))
    spool.retire(spool.seq)
    assert len(spool.parts()) == 1
    new = hold(entry(rng))
    spool.append(new)
    assert written(spool)[-1] == new
    assert spool.path is not None
    assert (spool.path / "reserve").stat().st_size == 8 * KIB


def test_only_shipped_segments_go(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    for _ in range(60):
        spool.append(settle(entry(rng)))
    third = spool.parts()[2].first
    spool.retire(third - 2)
    assert spool.parts()[0].first < third
    assert len(written(spool)) == 60 - spool.parts()[0].first + 1
    spool.retire(third - 1)
    assert spool.parts()[0].first == third


def test_a_running_call_outlives_its_segment(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    long_call = entry(rng)
    for record in (hold(long_call), sent(long_call), partial(long_call, 5), partial(long_call, 9)):
        spool.append(record)
    for _ in range(40):
        spool.append(settle(entry(rng)))
    spool.retire(spool.seq)
    assert written(spool)[-3:] == [hold(long_call), sent(long_call), partial(long_call, 9)]
    assert len(spool.parts()) == 1
    spool.append(settle(long_call))
    for _ in range(40):
        spool.append(settle(entry(rng)))
    spool.retire(spool.seq)
    assert not [record for record in written(spool) if not isinstance(record, SettleRecord)]


def test_a_hold_that_is_raised_forgets_nothing_of_a_running_call(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    call = entry(rng)
    raised = hold(call._replace(cap_nano=99_000_000))
    for record in (hold(call), sent(call), partial(call, 5), raised):
        spool.append(record)
    for _ in range(40):
        spool.append(settle(entry(rng)))
    spool.retire(spool.seq)
    assert written(spool)[-3:] == [raised, sent(call), partial(call, 5)]


def test_running_calls_move_on_through_the_reserve_when_the_quota_is_used_up(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    holds = fill(spool, rng)
    spool.retire(spool.seq)
    assert [record for record in written(spool) if record in holds[:14]] == holds[:14]
    assert spool.running == len(holds)


def test_closing_leaves_nothing_when_all_is_shipped(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    spool.append(settle(entry(rng)))
    spool.close(1)
    assert list(tmp_path.iterdir()) == []


def test_closing_leaves_what_is_not_shipped(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    records: list[Record] = [hold(entry(rng)), settle(entry(rng))]
    for record in records:
        spool.append(record)
    path = spool.path
    assert path is not None
    spool.close(2)
    assert [record for _, record in read_spool(path)] == records
    spool.append(records[0])
    assert spool.path != path


def four_records(spool: Spool) -> tuple[list[Record], list[int]]:
    """One call's records, and where in the segment each ends, the header first."""
    call = entry(random.Random(1))
    records: list[Record] = [hold(call), sent(call), partial(call, 3), settle(call)]
    ends = [len(MAGIC)]
    for record in records:
        spool.append(record)
        ends.append(spool._at)
    return records, ends


def abandoned(spool: Spool) -> Path:
    """Leave the spool as a dead process does."""
    path = spool.path
    assert path is not None
    spool.close(0)
    return path


def test_a_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    spool = small(tmp_path)
    records, ends = four_records(spool)
    path = abandoned(spool)
    (segment,) = segments(path)
    with segment.open("r+b", buffering=0) as file:
        for cut in reversed(range(ends[-1])):
            wrong = os.pread(file.fileno(), 1, cut)[0] ^ 0xFF
            os.pwrite(file.fileno(), bytes([wrong]), cut)
            expected = [record for record, end in zip(records, ends[1:], strict=True) if end <= cut]
            assert [record for _, record in read_spool(path)] == expected, f"cut at {cut}"
            os.pwrite(file.fileno(), b"\0", cut)


def test_a_file_cut_short_at_every_byte_gives_its_whole_records(tmp_path: Path) -> None:
    spool = small(tmp_path)
    records, ends = four_records(spool)
    path = abandoned(spool)
    (segment,) = segments(path)
    for cut in reversed(range(ends[-1])):
        os.truncate(segment, cut)
        expected = [record for record, end in zip(records, ends[1:], strict=True) if end <= cut]
        assert [record for _, record in read_spool(path)] == expected, f"shortened to {cut}"


def test_random_garbage_after_the_end_is_not_read(tmp_path: Path) -> None:
    rng = random.Random(seed())
    spool = small(tmp_path)
    records = [settle(entry(rng)) for _ in range(3)]
    for record in records:
        spool.append(record)
    end, path = spool._at, abandoned(spool)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    for _ in range(200):
        segment.write_bytes(whole[:end] + rng.randbytes(len(whole) - end))
        assert [record for _, record in read_spool(path)] == records


def test_a_forked_child_writes_a_spool_of_its_own(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    spool.append(settle(entry(rng)))
    mine = spool.path
    child = os.fork()
    if child == 0:
        spool.append(settle(entry(rng)))
        os._exit(0 if spool.path != mine and spool.seq == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(tmp_path.iterdir())) == 2
    spool.append(settle(entry(rng)))
    assert spool.path == mine
    assert len(written(spool)) == 2


def test_threads_append_without_a_gap(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=256 * KIB, reserve_bytes=64 * KIB)
    records = [[settle(entry(random.Random(thread * 1000 + n))) for n in range(500)] for thread in range(4)]

    def write(mine: list[SettleRecord]) -> None:
        for record in mine:
            spool.append(record)

    threads = [threading.Thread(target=write, args=(mine,)) for mine in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = written(spool)
    assert len(found) == 2_000
    for mine in records:
        order = {record.entry.event_id: at for at, record in enumerate(mine)}
        places = [order[r.entry.event_id] for r in found if isinstance(r, SettleRecord) and r.entry.event_id in order]
        assert places == list(range(500))


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to allocate more, as it does on a full disk (EFBIG in the place of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_found_when_a_segment_is_allocated(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool = small(tmp_path)
    first = hold(entry(rng))
    spool.append(first)
    with no_file_larger_than(4 * KIB):
        with pytest.raises(OSError, match="File too large"):
            Segment(tmp_path / "other", 8 * KIB)
        holds = [first, *fill(spool, rng)]
        last = settle(first.entry)
        spool.append(last)
    assert not (tmp_path / "other").exists()
    assert written(spool) == [*holds, last]
    assert len(holds) < 30


def test_a_spool_that_cannot_be_made_refuses_new_work(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file stands here")
    with pytest.raises(SpoolFull, match="exists"):
        Spool(tmp_path / "spool").append(hold(entry(random.Random(1))))


def test_a_failed_fsync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, segment_bytes=8 * KIB, reserve_bytes=8 * KIB, strict=True)
    spool.append(settle(entry(random.Random(1))))
    spool.sync()

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        spool.append(settle(entry(random.Random(2))))
        with pytest.raises(GuardUnavailable, match="fsync"):
            spool.sync()
    with pytest.raises(GuardUnavailable, match="fsync"):
        spool.append(settle(entry(random.Random(3))))
    with pytest.raises(GuardUnavailable, match="fsync"):
        spool.sync()


def test_callers_at_the_same_time_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, segment_bytes=KIB * KIB, reserve_bytes=8 * KIB, strict=True)
    entered, go, count = threading.Event(), threading.Event(), []
    real = os.fdatasync

    def slow(fd: int) -> None:
        count.append(fd)
        entered.set()
        assert go.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)

    def write() -> None:
        spool.append(settle(entry(random.Random(1))))
        spool.sync()

    threads = [threading.Thread(target=write) for _ in range(9)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while spool.seq < 9:
        pass
    go.set()
    for thread in threads:
        thread.join()
    assert len(count) == 2
