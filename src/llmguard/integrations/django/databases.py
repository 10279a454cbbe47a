"""The ledger in one of the project's `DATABASES`: its URL, and whether a test runner has put another in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from sqlalchemy.engine import URL

_POSTGRESQL: Final = frozenset({"django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis"})
_SQLITE: Final = frozenset({"django.db.backends.sqlite3", "django.contrib.gis.db.backends.spatialite"})
_OF_DJANGO: Final = frozenset(
    {"pool", "isolation_level", "server_side_binding", "assume_role", "cursor_factory", "client_encoding"}
)
"""Options of Django's back end; all others are libpq's, and hold for the ledger's connections too."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database as it is now. ``name`` is its own name or file."""

    alias: str
    name: str
    sqlite: bool
    test: bool
    url: str

    @property
    def in_memory(self) -> bool:
        """Whether it is an SQLite database without a file, as test runners make them."""
        return self.sqlite and (self.name == ":memory:" or "mode=memory" in self.name)


_named: dict[str, str] = {}
"""What the databases were called when the project started."""


def note_names() -> None:
    """Remember what the databases are called, before a test runner calls them otherwise."""
    for alias, database in settings.DATABASES.items():
        _named.setdefault(alias, str(database.get("NAME", "")))


def look_up(alias: str) -> Database:
    """The database behind an alias. Raises ImproperlyConfigured for one that there is not, or that cannot be a ledger.

    Never kept: a test runner renames databases, in each of its processes in another way. Connects to nothing.
    """
    if alias not in connections:
        known = ", ".join(connections)
        raise ImproperlyConfigured(f"LLMGUARD['LEDGER'] is 'alias:{alias}', but DATABASES has only: {known}.")
    written = connections[alias].settings_dict
    name, engine = str(written["NAME"]), written["ENGINE"]
    test = name != _named.get(alias, name)
    if engine in _SQLITE:
        return Database(alias, name, True, test, f"sqlite:///{name}")
    if engine in _POSTGRESQL:
        return Database(alias, name, False, test, _postgresql(written))
    raise ImproperlyConfigured(
        f"LLMGUARD['LEDGER'] is 'alias:{alias}', whose engine {engine} cannot hold a ledger; name a PostgreSQL "
        "database, or write LEDGER: 'sqlite:///llmguard.db'."
    )


def _postgresql(written: Mapping[str, Any]) -> str:
    options = {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in (written.get("OPTIONS") or {}).items()
        if key not in _OF_DJANGO and isinstance(value, str | int)
    }
    host = str(written.get("HOST") or "")
    if host.startswith("/"):  # the directory of a Unix socket has no place before the path
        options["host"], host = host, ""
    port = int(written["PORT"]) if written.get("PORT") else None
    url = URL.create(
        "postgresql",
        written.get("USER") or None,
        written.get("PASSWORD") or None,
        host or None,
        port,
        str(written["NAME"]) or None,
        options,
    )
    return url.render_as_string(hide_password=False)


def own_files() -> dict[str, str]:
    """The files of the project's SQLite databases, as they are called in production, by alias."""
    files = {alias: database for alias, database in settings.DATABASES.items() if database.get("ENGINE") in _SQLITE}
    return {alias: str(database["NAME"]) for alias, database in files.items()}
