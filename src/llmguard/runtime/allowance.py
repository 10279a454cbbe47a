"""The allowance of a process without its quota store, kept beside the spool so that a restart does not renew it.

There is a file for every process that ever needed one at a time. A process holds its file by a lock; when it dies,
the next one that needs a file takes it over, with what was spent.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from llmguard.core.outage import Allowance, Outage, OutageTerms, Why

log = logging.getLogger("llmguard.allowance")

_FOLDER = ".outage"
_MOST = 10_000
_NOTHING = "nothing can be spent while the quota store is away"


class KeptAllowance(Allowance):
    """An :class:`~llmguard.core.outage.Allowance` in a file under ``spools``. For any number of threads."""

    def __init__(self, spools: Path, terms: OutageTerms) -> None:
        super().__init__(terms)
        self._folder = spools / _FOLDER
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._file: int | None = None
        self._well = False

    def take(self, nano: int, now: int, *, background: bool) -> Why | None:
        """As in :class:`~llmguard.core.outage.Allowance`. Without a file, or room for one, nothing may be spent: nobody
        would know."""
        if os.getpid() != self._process:  # a forked child has an allowance of its own
            self.close()
            self.outage = Outage()
            self._begin()
        with self._lock:
            if self._file is None and not self._open():
                return "money"
            if not self.outage.since:
                log.warning("the quota store is away; this process goes on with an allowance of its own")
            self._well = False
            why = super().take(nano, now, background=background)
            return why if self._write() else "money"

    def answered(self, now: int) -> None:
        """The store is there: the outage is over, also for processes that died in it."""
        if self._well or not self.is_steady(now):
            return
        with self._lock:
            self._well = True
            if self.outage.since:
                log.warning("the quota store is back; it hears of what was spent meanwhile")
                self.outage = Outage()
                self._write()
            for fd in self._idle_files():
                os.ftruncate(fd, 0)
                os.close(fd)

    def _open(self) -> bool:
        """Take over the first file that nobody holds, or begin another."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for number in range(_MOST):
                fd = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
                if _locked(fd):
                    self._file = fd
                    self.outage = Outage.unpacked(os.pread(fd, 64, 0))
                    return True
                os.close(fd)
        except OSError as error:
            log.error("%s: %s", _NOTHING, error)
        return False

    def _write(self) -> bool:
        try:
            return self._file is not None and os.pwrite(self._file, self.outage.packed(), 0) > 0
        except OSError as error:
            log.error("%s: %s", _NOTHING, error)
            return False

    def _idle_files(self) -> Iterator[int]:
        """Files of processes that are gone, locked."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            fd = os.open(path, os.O_RDWR)
            if _locked(fd):
                yield fd
            else:
                os.close(fd)

    def close(self) -> None:
        """Leave the file to the next process."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
