"""Connections to the ledger: SQLite or PostgreSQL (also behind PgBouncer), always synchronous.

Two ways in, :func:`reading` and :func:`writing`, each one transaction. What a driver says about a database that is
away, locked or without our tables becomes :class:`llmguard.errors.LedgerUnavailable`.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url

from llmguard.errors import ConfigError, LedgerUnavailable, Problem
from llmguard.ledger.forks import Gate

BUSY_MS = 5_000
CONNECT_S = 5
_WAL_PATIENCE_S = 10.0


def create_engine(url: str) -> Engine:
    """An engine for `sqlite:///file` or `postgresql://…`. Connects on first use.

    Raises :class:`llmguard.errors.ConfigError` for another scheme or an in-memory SQLite database.
    """
    parsed = make_url(url)
    family = parsed.get_backend_name()
    if family == "sqlite":
        return _sqlite(parsed)
    if family in ("postgresql", "postgres"):
        return _postgresql(parsed.set(drivername="postgresql+psycopg"))
    raise ConfigError([Problem("ledger", f"{family}:// is not supported", "write sqlite:///file or postgresql://…")])


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError([Problem("ledger", "SQLite in memory would forget spend", "write sqlite:///llmguard.db")])
    # The begin hook below owns transactions; the driver would otherwise start them late and never before DDL or reads.
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_MS / 1000, "isolation_level": None})
    event.listen(engine, "do_connect", _private_file)
    event.listen(engine, "connect", _sqlite_pragmas)
    event.listen(engine, "begin", _sqlite_begin)
    _open_files.add(engine)
    return engine


def _postgresql(url: URL) -> Engine:
    # A pooler in transaction mode hands every transaction another server process: nothing may be prepared there.
    options = {"prepare_threshold": None, "connect_timeout": CONNECT_S, "tcp_user_timeout": 10_000}
    try:
        return sa.create_engine(url, connect_args=options, pool_size=2, max_overflow=8, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        fix = "pip install 'llmguard-gateway[postgres]', or write sqlite:///llmguard.db"
        raise ConfigError([Problem("ledger", "PostgreSQL needs the postgres extra", fix)]) from error


def _private_file(dialect: Any, record: Any, args: list[Any], options: dict[str, Any]) -> None:
    """Make a new database file readable by its owner only; SQLite copies the mode to its journal files."""
    path = Path(args[0])
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _sqlite_pragmas(connection: sqlite3.Connection, record: Any) -> None:
    _use_wal(connection)
    # The spool is the durability; after a power cut the database is intact and at worst behind its spools.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging. The busy handler does not cover this switch, so it is repeated here."""
    give_up = time.monotonic() + _WAL_PATIENCE_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                return
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("llmguard_begin", "BEGIN"))


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that writes; committed at the end, rolled back by an exception."""
    with _errors(engine), _between_forks(engine), engine.connect() as connection:
        connection.execution_options(llmguard_begin="BEGIN IMMEDIATE")
        with connection.begin():
            yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read-only transaction that sees one snapshot."""
    with _errors(engine), _between_forks(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


def _between_forks(engine: Engine) -> AbstractContextManager[None]:
    """No process forks while an SQLite file is in use. (Connections to a server are simply left to the parent.)"""
    return _gate if engine.dialect.name == "sqlite" else nullcontext()


def _close_files() -> None:
    for engine in list(_open_files):
        engine.dispose()


_open_files: weakref.WeakSet[Engine] = weakref.WeakSet()
_gate = Gate(_close_files)


@contextmanager
def _errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except rejections(engine):
        raise
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, engine.dialect.loaded_dbapi.Error) as error:
        where = engine.url.render_as_string(hide_password=True)
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise LedgerUnavailable(f"ledger {where}: {str(cause).strip()}") from error


def rejections(engine: Engine) -> tuple[type[Exception], ...]:
    """What is raised for a value or row that this database does not take, as opposed to one that is away."""
    driver = engine.dialect.loaded_dbapi
    return (
        sa.exc.DataError,
        sa.exc.IntegrityError,
        driver.DataError,
        driver.IntegrityError,
        OverflowError,
        UnicodeError,
    )
