"""The guard that the settings describe, found anew for each question: what it was made from may have changed.

A test runner's databases are no place for spend: as long as the ledger's has another name than at the start, the guard
has a spool and a quota store of its own, so that neither records nor sums of tests meet those of the project.
"""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmguard.config import Config, load
from llmguard.guard import Guard
from llmguard.integrations.django.databases import Database, look_up
from llmguard.integrations.django.settings import Settings, read_settings

_LEDGER: Final = "LLMGUARD_LEDGER"


@dataclass(frozen=True, slots=True)
class _Made:
    """A guard, and what it was made from."""

    settings: Settings
    url: str | None
    pid: int
    guard: Guard
    place: tempfile.TemporaryDirectory[str] | None

    def fits(self, settings: Settings, url: str | None) -> bool:
        here = self.place is None or self.pid == os.getpid()
        return self.settings is settings and self.url == url and here


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
        _made.pop().guard.close()


def _make(settings: Settings, database: Database | None, url: str | None) -> _Made:
    if database is None or not (database.test or database.in_memory):
        return _Made(settings, url, os.getpid(), Guard(configuration(settings, url)), None)
    place = tempfile.TemporaryDirectory(prefix="llmguard-", ignore_cleanup_errors=True)
    ledger = f"sqlite:///{place.name}/ledger.db" if database.sqlite else url
    config = configuration(settings, ledger)
    spool = config.spool.model_copy(update={"path": str(Path(place.name, "spool"))})
    config = config.model_copy(update={"spool": spool, "store": "memory://"})
    return _Made(settings, url, os.getpid(), Guard(config), place)
