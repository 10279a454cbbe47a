"""The project's `DATABASES`: the ledger's URL in one of them, and whether a test runner has put its own in their place.

They are looked up in `connections.settings`, which a test runner changes and each of its processes changes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
    """A database as it is now. ``renamed``: a test runner has put it in the place of the project's."""

    url: str
    sqlite: bool
    renamed: bool


_named: dict[str, str] = {}
"""What the databases were called when the project started."""


def note_names() -> None:
    """Remember what the databases are called, before a test runner calls them otherwise."""
    for alias in connections:
        _named.setdefault(alias, _name(alias))


def testing() -> bool:
    """Whether a test runner has put databases of its own in the place of any of the project's."""
    return any(_name(alias) != name for alias, name in _named.items())


def look_up(alias: str) -> Database:
    """The database behind an alias. Raises ImproperlyConfigured for one that there is not, or that cannot be a ledger.

    Never kept: a test runner renames databases, in each of its processes in another way. Connects to nothing.
    """
    if alias not in connections:
        known = ", ".join(connections)
        raise ImproperlyConfigured(f"LLMGUARD['LEDGER'] is 'alias:{alias}', but DATABASES has only: {known}.")
    name, written = _name(alias), connections.settings[alias]
    renamed = name != _named.get(alias, name)
    if written["ENGINE"] in _SQLITE:
        return Database(f"sqlite:///{name}", True, renamed)
    if written["ENGINE"] in _POSTGRESQL:
        return Database(_postgresql(written), False, renamed)
    raise ImproperlyConfigured(
        f"LLMGUARD['LEDGER'] is 'alias:{alias}', whose engine {written['ENGINE']} cannot hold a ledger; name a "
        "PostgreSQL database, or write LEDGER: 'sqlite:///llmguard.db'."
    )


def own_files() -> dict[str, str]:
    """The files of the project's SQLite databases, by alias."""
    return {alias: _name(alias) for alias in connections if connections.settings[alias]["ENGINE"] in _SQLITE}


def _name(alias: str) -> str:
    return str(connections.settings[alias]["NAME"])


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
