"""SQL that the two databases spell differently, and the compiled insert of the shipper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from llmguard.ledger.models import COLUMNS, entries

_COPY = f"COPY llmguard_entries ({', '.join(COLUMNS)}) FROM STDIN"
_INSERT = str(sa.insert(entries).compile(dialect=sqlite.dialect()))

# The ids go as one parameter, whatever their number, so that the statement is the same every time.
_KNOWN = {
    "sqlite": "SELECT DISTINCT event_id FROM llmguard_entries WHERE event_id IN (SELECT value FROM json_each(?))",
    "postgresql": "SELECT DISTINCT event_id::text FROM llmguard_entries WHERE event_id = ANY(%s::uuid[])",
}

Row = tuple[Any, ...]


def upsert(connection: Connection, table: sa.Table) -> Any:
    """An insert that can say `ON CONFLICT`."""
    return upsert_of(connection.dialect.name, table)


def upsert_of(dialect: str, table: sa.Table) -> Any:
    """The same for a dialect by its name."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def known_events(connection: Connection, event_ids: Sequence[str]) -> set[str]:
    """Which of these calls have rows already."""
    name = connection.dialect.name
    ids = msgspec.json.encode(event_ids).decode() if name == "sqlite" else "{" + ",".join(event_ids) + "}"
    cursor = connection.connection.cursor()
    try:
        cursor.execute(_KNOWN[name], (ids,))
        return {row[0] for row in cursor.fetchall()}
    finally:
        cursor.close()


def insert_entries(connection: Connection, rows: Iterable[Row]) -> None:
    """Insert rows in the order of :data:`llmguard.ledger.models.COLUMNS`, as fast as the driver can.

    A row that exists is an IntegrityError: look before (:func:`known_events`). PostgreSQL takes COPY, which costs a
    fifth of an insert and needs no prepared statement or temporary table, so a pooler may stand in between.
    """
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.name == "sqlite":
            cursor.executemany(_INSERT, rows)
            return
        with cursor.copy(_COPY) as copy:
            for row in rows:
                copy.write_row(row)
    finally:
        cursor.close()
