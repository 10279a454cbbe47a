"""Finishes what a dead process left in its spool.

A spool whose lock can be taken has no owner any more. Its settled calls are posted as its own shipper would have done;
a call that was sent and never ended is charged (:mod:`llmguard.ledger.interrupted`); one that was never sent costs
nothing. Every step may be repeated: rows are unique, so a second adopter, or one that takes over from an adopter that
died halfway, changes nothing that was done.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.engine import Engine

from llmguard.core.records import HoldRecord, PartialRecord, Record, SentRecord, SettleRecord, VoidRecord
from llmguard.ledger.engine import rejections
from llmguard.ledger.interrupted import settle_interrupted
from llmguard.ledger.posting import SLICE, forget_spool, post, post_singly, shipped_up_to
from llmguard.ledger.rejected import decoded
from llmguard.ledger.segment import SUFFIX, SegmentReader, first_of
from llmguard.ledger.spool import LOCK, UNFINISHED

BATCH = 1_000

_log = logging.getLogger("llmguard.ledger")

Numbered = tuple[int, SettleRecord]


class Adopted(NamedTuple):
    """What an adoption did: spools taken over, rows that were new, calls charged as interrupted, calls released."""

    spools: int = 0
    rows: int = 0
    interrupted: int = 0
    released: int = 0


def adopt(
    directory: Path,
    engine: Engine,
    *,
    on_settled: Callable[[Sequence[SettleRecord]], None] = lambda records: None,
    on_released: Callable[[Sequence[str]], None] = lambda rids: None,
) -> Adopted:
    """Take over every spool below ``directory`` whose process is dead.

    ``on_settled`` is told of all settled and interrupted calls, in batches after their rows are committed, and
    ``on_released`` of the rids that were never sent, so that the quota store hears it too. Both may hear the same call
    more than once. A spool goes only when everything was done; any error leaves it for the next adopter. Raises
    :class:`llmguard.errors.LedgerUnavailable` and what the callbacks raise.
    """
    total = Adopted()
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.name.startswith(UNFINISHED) or not path.is_dir():
            continue
        with _claimed(path) as claimed:
            if claimed:
                done = _Adoption(path, engine, on_settled, on_released).run()
                _log.warning("adopted the spool of a dead process: %s %s", path.name, done)
                total = Adopted(*map(sum, zip(total, done, strict=True)))
    return total


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Hold the lock of a spool, if its owner is dead and no one else adopts it."""
    try:
        fd = os.open(path / LOCK, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another adopter may have finished, and removed the file, between the two calls.
            mine = os.fstat(fd).st_nlink > 0
        except BlockingIOError:
            mine = False
        yield mine
    finally:
        os.close(fd)


class _Open:
    """A call without an end."""

    __slots__ = ("hold", "partial", "sent")

    def __init__(self, hold: HoldRecord) -> None:
        self.hold = hold
        self.sent: SentRecord | None = None
        self.partial: PartialRecord | None = None


class _Adoption:
    def __init__(
        self,
        path: Path,
        engine: Engine,
        on_settled: Callable[[Sequence[SettleRecord]], None],
        on_released: Callable[[Sequence[str]], None],
    ) -> None:
        self._path = path
        self._engine = engine
        self._on_settled = on_settled
        self._on_released = on_released
        self._open: dict[str, _Open] = {}

    def run(self) -> Adopted:
        shipped = shipped_up_to(self._engine, self._path.name)
        rows = 0
        settled = self._settled()
        while batch := list(islice(settled, BATCH)):
            last = batch[-1][0]
            fresh = [record for seq, record in batch if seq > shipped]
            rows += self._post(fresh, max(last, shipped))
            self._on_settled([record for _, record in batch])
            shipped = max(last, shipped)
        interrupted = [settle_interrupted(o.hold, o.sent, o.partial) for o in self._open.values() if o.sent is not None]
        released = [rid for rid, o in self._open.items() if o.sent is None]
        rows += self._post(interrupted, shipped)
        if interrupted:
            self._on_settled(interrupted)
        if released:
            self._on_released(released)
        forget_spool(self._engine, self._path.name)
        self._remove()
        return Adopted(1, rows, len(interrupted), len(released))

    def _settled(self) -> Iterator[Numbered]:
        """The settled calls in order; what is left in ``_open`` afterwards never ended."""
        for seq, record in read_spool(self._path):
            match record:
                case SettleRecord():
                    self._open.pop(record.entry.event_id, None)
                    yield seq, record
                case HoldRecord():
                    self._begin(record)
                case VoidRecord():
                    self._open.pop(record.event_id, None)
                case SentRecord() if record.event_id in self._open:
                    self._open[record.event_id].sent = record
                case PartialRecord() if record.event_id in self._open:
                    self._open[record.event_id].partial = record

    def _begin(self, hold: HoldRecord) -> None:
        """A running call is written down again when its segment goes; then what followed its first HOLD still holds."""
        event_id = hold.entry.event_id
        known = self._open.get(event_id)
        if known is not None and known.hold.entry.attempt_id == hold.entry.attempt_id:
            known.hold = hold
        else:
            self._open[event_id] = _Open(hold)

    def _post(self, records: Sequence[SettleRecord], seq: int) -> int:
        if not records:
            return 0
        slices = (records[at : at + SLICE] for at in range(0, len(records), SLICE))
        try:
            return post(self._engine, slices, spool=self._path.name, reached=lambda: seq)
        except rejections(self._engine):
            return post_singly(self._engine, records, self._path.parent)

    def _remove(self) -> None:
        """Oldest segment first: what is left by a crash is still the end of the run."""
        for segment in segments(self._path):
            segment.unlink()
        shutil.rmtree(self._path)


def segments(path: Path) -> list[Path]:
    """The segments of a spool, oldest first."""
    return sorted(path.glob("*" + SUFFIX))


def read_spool(path: Path) -> Iterator[tuple[int, Record]]:
    """The records of a spool that nobody writes, with their numbers. A torn tail ends it."""
    expected = None
    for segment in segments(path):
        if expected is not None and first_of(segment) != expected:
            _log.error("spool %s is damaged: records %d to %d are lost", path, expected, first_of(segment) - 1)
        reader = SegmentReader(segment)
        try:
            while payloads := reader.read(BATCH):
                for seq, payload in payloads:
                    record = decoded(payload, path.parent)
                    if record is not None:
                        yield seq, record
        finally:
            reader.close()
        expected = reader.seq
