"""The local spool: where a call's records are safe from `kill -9` before anything else happens with them.

One directory per process below the spool's path, locked for as long as the process lives; inside it a run of segments
with gapless sequence numbers, the oldest of which are deleted once they are shipped. What is left is always the end of
the run, so a reader that finds a call's HOLD also finds all that followed. A call that is still running when its
segment goes is written down again (:meth:`Spool.retire`).

Room: segments together take at most ``quota_bytes``. When no further one can be made, new work (HOLD) is refused with
:class:`llmguard.errors.SpoolFull`, and calls in flight finish into a reserve that was allocated beforehand.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import threading
import time
import uuid
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from llmguard.core.records import HoldRecord, Kind, PartialRecord, Record, SentRecord
from llmguard.errors import GuardUnavailable, SpoolFull
from llmguard.ledger import codec
from llmguard.ledger.forks import Forgetter
from llmguard.ledger.segment import MAGIC, Segment, name

LOCK = "lock"
RESERVE = "reserve"
UNFINISHED = "."
"""First character of a directory that is not locked yet; adopters pass it over."""

# Plain integers: comparing enumeration members costs more than everything else that is done with a kind.
HOLD, SENT, PARTIAL, SETTLE = int(Kind.HOLD), int(Kind.SENT), int(Kind.PARTIAL), int(Kind.SETTLE)
_RETRY_S = 1.0


class Part(NamedTuple):
    """One segment: the number of its first record, its file, and the bytes it takes."""

    first: int
    path: Path
    size: int


class _Running:
    """A call that has not ended: the newest of its records, and the segment that its HOLD stands in."""

    __slots__ = ("hold", "partial", "segment", "sent")

    def __init__(self, segment: int, hold: HoldRecord) -> None:
        self.segment = segment
        self.hold = hold
        self.sent: SentRecord | None = None
        self.partial: PartialRecord | None = None


class Spool:
    """Appends records for this process. Opens on the first append, and anew in a forked child.

    Thread-safe. Sizes are bytes; ``quota_bytes`` counts this process's segments without the reserve. With ``strict``
    an append is final only after :meth:`sync`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = 16 << 20,
        reserve_bytes: int = 16 << 20,
        quota_bytes: int = 1 << 30,
        strict: bool = False,
    ) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._quota_bytes = quota_bytes
        self._strict = strict
        self._forgetter = Forgetter(self._forget)
        self._reset()

    def _reset(self) -> None:
        """The state of a spool that is not open."""
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self.path: Path | None = None
        self.error: OSError | None = None
        """What the operating system last said when there was no room."""
        self._lost: OSError | None = None
        self._lock_fd = -1
        self._parts: deque[Part] = deque()
        self._used = 0
        self._current: Segment | None = None
        # Unmapping takes a millisecond, so filled segments wait for the shipper to do it.
        self._filled: list[Segment] = []
        self._reserve: Segment | None = None
        self._running: dict[str, _Running] = {}
        self._retry_at = 0.0
        self._map: mmap.mmap
        self._at = self._end = self._plain_end = 0
        self._seq = self._synced = 0

    # ------------------------------------------------------------------ writing

    def append(self, record: Record) -> None:
        """Write one record; on return the kernel has it.

        Raises :class:`llmguard.errors.SpoolFull` when there is no room: for a HOLD when no further segment can be
        made, for the others only when the reserve is used up, too. A PARTIAL never takes from the reserve: it is
        dropped, and an interrupted call is then charged by an earlier one. Raises
        :class:`llmguard.errors.GuardUnavailable` for good after a failed fsync.
        """
        kind = codec.KINDS[record.__class__]
        payload = codec.encode((kind, record))
        with self._lock:
            if type(record) is HoldRecord:
                if self._put(kind, payload, urgent=False):
                    self._begin(record)
            elif self._put(kind, payload, urgent=kind != PARTIAL):
                self._follow(kind, record)

    def _put(self, kind: int, payload: bytes, *, urgent: bool) -> bool:
        at, seq = self._at, self._seq + 1
        data = codec.frame(seq, payload)
        end = at + len(data)
        if end > (self._end if urgent else self._plain_end):
            if not self._make_room(kind, len(data), urgent=urgent):
                return False
            at, end = self._at, self._at + len(data)
        self._map[at:end] = data
        self._at, self._seq = end, seq
        return True

    def _follow(self, kind: int, record: Any) -> None:
        """Know which calls are running."""
        if kind == SETTLE:
            self._running.pop(record.entry.event_id, None)
        else:
            running = self._running.get(record.event_id)
            if running is None:
                return
            if kind == SENT:
                running.sent = record
            elif kind == PARTIAL:
                running.partial = record
            else:
                del self._running[record.event_id]

    def _begin(self, hold: HoldRecord) -> None:
        """A HOLD of another attempt begins anew; of the same one it only takes the place of the earlier HOLD."""
        event_id = hold.entry.event_id
        running = self._running.get(event_id)
        if running is not None and running.hold.entry.attempt_id == hold.entry.attempt_id:
            running.hold = hold
        else:
            self._running[event_id] = _Running(self._parts[-1].first, hold)

    def sync(self) -> None:
        """Put everything appended so far on the disk; callers at the same time share one fsync.

        Raises :class:`llmguard.errors.GuardUnavailable`. After a failed fsync nobody knows what the disk holds, so the
        spool takes no further record; the process should end and its spool be adopted.
        """
        wanted = self._seq
        with self._sync_lock:
            if self._synced >= wanted:
                return
            with self._lock:
                self._refuse_if_lost()
                if self._current is None:
                    return
                reached, fd = self._seq, os.dup(self._current.fd)
            try:
                os.fdatasync(fd)
            except OSError as error:
                with self._lock:
                    self._lose(error)
                self._refuse_if_lost()
            finally:
                os.close(fd)
            self._synced = reached

    def _lose(self, error: OSError) -> None:
        self._lost = error
        self._at = self._end = self._plain_end = 0

    def _refuse_if_lost(self) -> None:
        if self._lost is not None:
            raise GuardUnavailable(f"spool {self.path}: fsync failed, nothing more can be recorded") from self._lost

    # ------------------------------------------------------------------ room

    def _make_room(self, kind: int, size: int, *, urgent: bool) -> bool:
        """Move on to a fresh segment, or to the reserve. False: the record may be left out."""
        self._refuse_if_lost()
        if self._allocate(size):
            return True
        if kind == PARTIAL and not urgent:
            return False
        reserve = self._reserve
        if not urgent or reserve is None or len(MAGIC) + size > reserve.size:
            raise SpoolFull(f"spool {self.directory}: {self.error or 'its quota is used up'}")
        self._reserve = None
        reserve.rename(reserve.path.with_name(name(self._seq + 1)))
        self._enter(reserve, plain=False)
        return True

    def _allocate(self, size: int) -> bool:
        """Make a further segment. Never without a whole reserve: what is admitted must be able to finish."""
        size = max(self._segment_bytes, len(MAGIC) + size)
        now = time.monotonic()
        if self._used + size > self._quota_bytes or now < self._retry_at:
            return False
        try:
            path = self._open()
            if self._reserve is None:
                self._reserve = Segment(path / RESERVE, self._reserve_bytes)
            segment = Segment(path / name(self._seq + 1), size)
            if self._strict:
                _sync_directory(path)
        except OSError as error:
            self.error = error
            self._retry_at = now + _RETRY_S
            return False
        self.error = None
        self._enter(segment, plain=True)
        return True

    def _open(self) -> Path:
        """This process's own directory. It appears under its name only once it is locked."""
        if self.path is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            own = f"{os.getpid()}-{uuid.uuid4().hex}"
            unfinished = self.directory / (UNFINISHED + own)
            unfinished.mkdir(mode=0o700)
            try:
                self._lock_fd = os.open(unfinished / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError:
                unfinished.rmdir()
                raise
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path = unfinished.rename(self.directory / own)
            if self._strict:
                _sync_directory(self.directory)
        return self.path

    def _enter(self, segment: Segment, *, plain: bool) -> None:
        """Write to ``segment`` from now on; one that is not ``plain`` takes urgent records only."""
        if self._current is not None:
            if self._strict:
                try:
                    self._current.sync()
                except OSError as error:
                    self._lose(error)
                    self._refuse_if_lost()
            self._filled.append(self._current)
        self._parts.append(Part(self._seq + 1, segment.path, segment.size))
        self._used += segment.size
        self._current = segment
        self._map = segment.map
        self._at = len(MAGIC)
        self._end = segment.size
        self._plain_end = segment.size if plain else 0

    # ------------------------------------------------------------------ shipping

    @property
    def seq(self) -> int:
        """The number of the last record written; 0 before the first."""
        return self._seq

    @property
    def running(self) -> int:
        """How many calls have a HOLD and no end yet."""
        return len(self._running)

    @property
    def used(self) -> int:
        """Bytes that the segments take."""
        return self._used

    def parts(self) -> list[Part]:
        """The segments, oldest first; the last one is being written."""
        with self._lock:
            return list(self._parts)

    def retire(self, shipped: int) -> None:
        """Delete the segments that hold no record beyond number ``shipped``.

        Calls that are still running are written down again first, so that their records are always found together.
        Where there is no room for that, the segment stays until there is.
        """
        while self._filled:
            self._filled.pop().close()
        for part, following in pairwise(self.parts()):
            if following.first - 1 > shipped:
                return
            try:
                self._carry(part.first)
            except GuardUnavailable:
                return
            part.path.unlink()
            with self._lock:
                self._parts.popleft()
                self._used -= part.size
                self._retry_at = 0.0

    def _carry(self, first: int) -> None:
        with self._lock:
            staying = [rid for rid, running in self._running.items() if running.segment == first]
        for rid in staying:
            with self._lock:
                running = self._running.get(rid)
                if running is not None and running.segment == first:
                    self._write_again(running)

    def _write_again(self, running: _Running) -> None:
        self._put(HOLD, codec.encode((HOLD, running.hold)), urgent=True)
        segment = self._parts[-1].first
        if running.sent is not None:
            self._put(SENT, codec.encode((SENT, running.sent)), urgent=True)
        if running.partial is not None:
            self._put(PARTIAL, codec.encode((PARTIAL, running.partial)), urgent=True)
        running.segment = segment

    # ------------------------------------------------------------------ the end

    def close(self, shipped: int) -> None:
        """Give the spool up. Where all is shipped and no call runs, its directory goes; else it can be adopted."""
        with self._lock:
            if self.path is not None:
                finished = shipped >= self._seq and not self._running
                self._drop_files()
                if finished:
                    shutil.rmtree(self.path)
                else:
                    (self.path / RESERVE).unlink(missing_ok=True)
                os.close(self._lock_fd)
        self._reset()

    def _drop_files(self) -> None:
        for segment in (self._current, self._reserve, *self._filled):
            if segment is not None:
                segment.close()

    def _forget(self) -> None:
        """In a forked child: these files are the parent's. Closing a copy of the lock leaves the parent's in place."""
        if self.path is not None:
            self._drop_files()
            os.close(self._lock_fd)
        self._reset()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
