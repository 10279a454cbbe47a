"""Carries settled calls from this process's spool into SQL: one thread, off the hot path, synchronous.

It reads a batch, posts it in one transaction together with the spool's offset, and lets segments go after the commit.
Work is cut into slices with a short rest between them, because a thread that holds the interpreter holds up the event
loop. Without a database it waits and tries again for as long as the spool has room.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from sqlalchemy.engine import Engine

from llmguard.core.records import Kind, SettleRecord
from llmguard.errors import LedgerUnavailable
from llmguard.ledger.engine import rejections
from llmguard.ledger.forks import Forgetter
from llmguard.ledger.posting import SLICE, forget_spool, post, post_singly
from llmguard.ledger.rejected import decoded
from llmguard.ledger.segment import SegmentReader
from llmguard.ledger.spool import Spool

_BACKOFF_S = (0.1, 5.0)
_SETTLE = int(Kind.SETTLE)

_log = logging.getLogger("llmguard.ledger")


class SpoolReader:
    """Reads the settled calls of a spool that is being written. ``seq`` is the number of the next record."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._segment: SegmentReader | None = None
        self.seq = 1

    def read(self, limit: int) -> list[SettleRecord]:
        """At most ``limit`` records; none when all that was written has been read.

        Raises :class:`llmguard.errors.LedgerUnavailable` where a record that was written cannot be read back.
        """
        last = self._spool.seq
        while self.seq <= last:
            fresh = self._segment is None
            segment = self._segment = self._segment or self._open()
            payloads = segment.read(limit, last=last, only=_SETTLE)
            if segment.seq == self.seq:
                if fresh:
                    raise LedgerUnavailable(f"spool {self._spool.path}: record {self.seq} is damaged")
                self.close()
                continue
            self.seq = segment.seq
            records = [decoded(payload, self._spool.directory) for _, payload in payloads]
            if records:
                return cast("list[SettleRecord]", [record for record in records if record is not None])
        return []

    def _open(self) -> SegmentReader:
        path = next(part.path for part in reversed(self._spool.parts()) if part.first <= self.seq)
        segment = SegmentReader(path)
        segment.skip_to(self.seq)
        return segment

    def rewind(self, seq: int) -> None:
        """Read from record ``seq`` again."""
        self.close()
        self.seq = seq

    def close(self) -> None:
        """Close the segment at hand."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None


class Shipper:
    """Ships one spool. ``interval`` is how long, in seconds, a record may wait for others to be shipped with.

    ``healthy`` is False from the first failed attempt to the next good one, and ``error`` says why. ``shipped`` is the
    number of the last record that is safe in SQL.
    """

    def __init__(self, spool: Spool, engine: Engine, *, interval: float = 0.2, batch: int = 1_000) -> None:
        self.spool = spool
        self._engine = engine
        self._interval = interval
        self._batch = batch
        self._forgetter = Forgetter(self._forget)
        self._reset()

    def _forget(self) -> None:
        self._reader.close()
        self._reset()

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._reader = SpoolReader(self.spool)
        self._wake = threading.Event()
        self._moved = threading.Condition()
        self._stopping = False
        self._taken = 0
        self.shipped = 0
        self.error: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether the last attempt to ship went well."""
        return self.error is None

    def start(self) -> None:
        """Start the thread of this process; does nothing where it runs."""
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="llmguard-shipper", daemon=True)
            self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Wait until all that has been appended so far is in SQL; False when ``timeout`` seconds were not enough."""
        wanted = self.spool.seq
        self._wake.set()
        with self._moved:
            return self._moved.wait_for(lambda: self.shipped >= wanted, timeout)

    def stop(self, *, drain: bool = True, timeout: float = 10.0) -> bool:
        """End the thread, shipping what there is first if ``drain``; returns whether everything is in SQL.

        What is not stays in the spool and is adopted by another process.
        """
        thread = self._thread
        if thread is not None:
            if drain:
                self.flush(timeout)
            self._stopping = True
            self._wake.set()
            thread.join(timeout)
            self._thread = None
        done = self.shipped >= self.spool.seq
        if done and self.spool.path is not None:
            with suppress(LedgerUnavailable):  # an offset that is left behind harms nobody
                forget_spool(self._engine, self.spool.path.name)
        return done

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._ship_until_stopped()
        finally:
            self._reader.close()
            if not self._stopping:
                self.error = "the shipper's thread has died"

    def _ship_until_stopped(self) -> None:
        backoff = _BACKOFF_S[0]
        while not self._stopping:
            try:
                taken = self.ship()
            except LedgerUnavailable as error:
                if self.healthy:
                    _log.warning("cannot ship the spool, will try again: %s", error)
                self.error = str(error)
                self._wake.wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                backoff = min(backoff * 2, _BACKOFF_S[1])
            else:
                self.error = None
                backoff = _BACKOFF_S[0]
                if taken < self._batch:  # a transaction costs as much as ten rows: let some gather
                    self._wake.wait(self._interval)
            self._wake.clear()

    def ship(self) -> int:
        """Ship one batch now, in the calling thread; returns how many records it took, 0 when there are no more.

        Raises :class:`llmguard.errors.LedgerUnavailable`, having shipped nothing.
        """
        start = self._reader.seq
        first = self._reader.read(SLICE)
        self._taken = len(first)
        if first:
            try:
                self._post(first, start)
            except BaseException:
                self._reader.rewind(start)
                raise
        self.spool.retire(self._reader.seq - 1)
        with self._moved:
            self.shipped = self._reader.seq - 1
            self._moved.notify_all()
        return self._taken

    def _post(self, first: list[SettleRecord], start: int) -> None:
        spool = self.spool.path
        assert spool is not None
        try:
            post(self._engine, self._slices(first), spool=spool.name, reached=lambda: self._reader.seq - 1)
        except rejections(self._engine):
            self._post_singly(start)

    def _slices(self, first: list[SettleRecord]) -> Iterator[list[SettleRecord]]:
        settled = first
        while settled:
            yield settled
            settled = self._reader.read(SLICE) if self._taken < self._batch else []
            self._taken += len(settled)

    def _post_singly(self, start: int) -> None:
        """The database rejects the batch: find out which record it is."""
        end = self._reader.seq
        self._reader.rewind(start)
        while self._reader.seq < end:
            post_singly(self._engine, self._reader.read(1), self.spool.directory)
