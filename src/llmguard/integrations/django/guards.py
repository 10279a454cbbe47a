"""The guard that the settings describe, found anew for each question: what it was made from may have changed.

A test runner's databases are no place for spend: as long as the ledger's has another name than at the start, the guard
has a spool and a quota store of its own, so that neither records nor sums of tests meet those of the project.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmguard.config import Config, load
from llmguard.guard import Guard
from llmguard.integrations.django.databases import Database, look_up
from llmguard.integrations.django.settings import Settings, read_settings

_LEDGER: Final = "LLMGUARD_LEDGER"


@dataclass(frozen=True, slots=True)
class _Made:
    """A guard, and what it was made from. ``place`` is the directory of one that is for tests in one process."""

    settings: Settings
    url: str | None
    guard: Guard
    place: str | None = None
    pid: int = field(default_factory=os.getpid)

    def fits(self, settings: Settings, url: str | None) -> bool:
        here = self.place is None or self.pid == os.getpid()
        return self.settings is settings and self.url == url and here

    def leave(self) -> None:
        self.guard.close()
        if self.place is not None and self.pid == os.getpid():
            shutil.rmtree(self.place, ignore_errors=True)


_made: list[_Made] = []
_lock: Final = threading.Lock()


def find_guard() -> Guard:
    """The project's guard. Reads the configuration once, and again when a test overrides `LLMGUARD` or the ledger's
    database is another one. Raises ImproperlyConfigured and :class:`llmguard.errors.ConfigError`."""
    settings = read_settings()
    database = None if settings.alias is None else look_up(settings.alias)
    url = settings.ledger if database is None else database.url
    for made in _made:
        if made.fits(settings, url):
            return made.guard
    with _lock:
        if not _made or not _made[-1].fits(settings, url):
            _made[:] = [_make(settings, database, url)]
        return _made[-1].guard


def configuration(settings: Settings, url: str | None) -> Config:
    """What the settings configure, with the ledger that they name. Raises :class:`llmguard.errors.ConfigError`."""
    return load(settings.config, os.environ | ({} if url is None else {_LEDGER: url}))


def leave_test_databases() -> None:
    """Put everything on record and close the connections to a database that a test runner is about to copy or drop."""
    while _made and _made[-1].place is not None:
        _made.pop().leave()


def _make(settings: Settings, database: Database | None, url: str | None) -> _Made:
    if database is None or not (database.test or database.in_memory):
        return _Made(settings, url, Guard(configuration(settings, url)))
    place = tempfile.mkdtemp(prefix="llmguard-")
    config = configuration(settings, f"sqlite:///{place}/ledger.db" if database.sqlite else url)
    spool = config.spool.model_copy(update={"path": str(Path(place, "spool"))})
    made = _Made(settings, url, Guard(config.model_copy(update={"spool": spool, "store": "memory://"})), place)
    atexit.register(made.leave)
    return made
