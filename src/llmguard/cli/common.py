"""What the commands share: options, opening what the configuration names, printing.

A command loads what it needs when it runs, so that `--help` and a mistyped option are answered at once.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmguard.errors import ConfigError, Problem

if TYPE_CHECKING:
    from llmguard.guard import Guard
    from llmguard.ledger import Ledger

T = TypeVar("T")

MEMORY = "memory://"
"""The store that lives in the serving process, where no command can see it."""

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="Configuration file (LLMGUARD_CONFIG; else ./llmguard.yaml; else development mode)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_given: ContextVar[Callable[[], Guard] | None] = ContextVar("llmguard_command", default=None)


@contextmanager
def given_guard(find: Callable[[], Guard]) -> Iterator[None]:
    """Commands inside that name no configuration work on this guard; for programs whose command line includes ours."""
    token = _given.set(find)
    try:
        yield
    finally:
        _given.reset(token)


def guard_is_given() -> bool:
    """Whether a command that names no configuration works on another program's guard."""
    return _given.get() is not None


def open_guard(config: str | None) -> Guard:
    """The checked guard of a command. Raises ConfigError."""
    from llmguard.guard import Guard

    find = _given.get()
    return Guard(config) if config is not None or find is None else find()


def mistakes(config: str | None) -> list[Problem]:
    """Everything that is wrong with the configuration of a command."""
    from llmguard.config import check

    if config is not None or _given.get() is None:
        return check(config)
    try:
        open_guard(None)
    except ConfigError as error:
        return error.problems
    return []


@contextmanager
def open_ledger(guard: Guard) -> Iterator[Ledger]:
    """The ledger, ready for use: an SQLite one is made or migrated. Raises LedgerUnavailable."""
    ledger = guard.ledger()
    try:
        ledger.make_ready()
        yield ledger
    finally:
        ledger.close()


def actor() -> str:
    """Who runs this command, as the audit trail names them: `user@host`."""
    import getpass
    import os
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def read_option(option: str, read: Callable[[str], T], text: str) -> T:
    """An option's value in the grammar of the configuration; what is wrong with it is a usage error."""
    from llmguard.config.units import Wrong

    try:
        return read(text)
    except Wrong as error:
        raise typer.BadParameter(f"{option} {text!r} is {error}") from None


def say(message: str) -> None:
    """A remark or an error, on standard error."""
    typer.echo(f"llmguard: {message}", err=True)


def moment(epoch_ms: int | None) -> str | None:
    """Epoch milliseconds as ISO 8601 in UTC, whole seconds."""
    return None if epoch_ms is None else datetime.fromtimestamp(epoch_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows for people: one line each, missing values as a dash, never cut short."""
    lines = [columns, *(["-" if row.get(name) is None else str(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
