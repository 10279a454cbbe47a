"""The guard that the settings describe, found anew for each question: what it was made from may have changed.

Spend of tests is none of the project's: as long as a test runner has put databases of its own in the place of the
project's, the guard has a ledger there or in a file of its own, and a spool and a quota store that nobody else has.
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
from llmguard.config.types import Dsn
from llmguard.guard import Guard
from llmguard.integrations.django.databases import Database, look_up, testing
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

    def fits(self, settings: Settings, url: str | None, *, tests: bool) -> bool:
        here = tests and self.pid == os.getpid() if self.place else not tests
        return self.settings is settings and self.url == url and here

    def leave(self) -> None:
        self.guard.close()
        if self.place is not None and self.pid == os.getpid():
            shutil.rmtree(self.place, ignore_errors=True)


_made: list[_Made] = []
_lock: Final = threading.Lock()


def find_guard() -> Guard:
    """The project's guard. Reads the configuration once, and again when a test overrides `LLMGUARD` or the databases
    are others. Raises ImproperlyConfigured and :class:`llmguard.errors.ConfigError`."""
    settings, tests = read_settings(), testing()
    database = None if settings.alias is None else look_up(settings.alias)
    url = settings.ledger if database is None else database.url
    for made in _made:
        if made.fits(settings, url, tests=tests):
            return made.guard
    with _lock:
        if not _made or not _made[-1].fits(settings, url, tests=tests):
            _made[:] = [_for_tests(settings, database, url) if tests else _Made(settings, url, _guard(settings, url))]
        return _made[-1].guard


def configuration(settings: Settings, url: str | None) -> Config:
    """What the settings configure, with the ledger that they name. Raises :class:`llmguard.errors.ConfigError`."""
    return load(settings.config, os.environ | ({} if url is None else {_LEDGER: url}))


def leave_test_databases() -> None:
    """Put everything on record and close the connections to a database that a test runner is about to copy or drop."""
    while _made and _made[-1].place is not None:
        _made.pop().leave()


def _guard(settings: Settings, url: str | None) -> Guard:
    return Guard(configuration(settings, url))


def _for_tests(settings: Settings, database: Database | None, url: str | None) -> _Made:
    config = configuration(settings, url)
    place = tempfile.mkdtemp(prefix="llmguard-")
    own = {"spool": config.spool.model_copy(update={"path": str(Path(place, "spool"))}), "store": "memory://"}
    if database is None or not database.renamed or database.sqlite:
        own["ledger"] = Dsn(f"sqlite:///{place}/ledger.db")
    made = _Made(settings, url, Guard(config.model_copy(update=own)), place)
    atexit.register(made.leave)
    return made
