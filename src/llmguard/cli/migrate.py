"""`llmguard migrate`: the schema of the ledger's database."""

# ruff: noqa: PLC0415  the command loads what it needs when it runs

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json, say

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(migrate)


def migrate(
    config: ConfigOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 when there is something to do.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the ledger to this program's schema."""
    from llmguard.ledger import migrate as migrations
    from llmguard.ledger.engine import create_engine

    url = open_guard(config).config.ledger
    if sql:
        typer.echo(migrations.sql(url))
        return
    engine = create_engine(url)
    try:
        if not check:
            migrations.upgrade(engine)
        revision, head = _revision(engine), migrations.head()
    finally:
        engine.dispose()
    if as_json:
        print_json({"revision": revision, "head": head, "current": revision == head})
    if revision != head:
        say(f"the ledger is at revision {revision or 'none'}, and this program needs {head}: run `llmguard migrate`")
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"the ledger is at revision {head}")


def _revision(engine: Engine) -> str | None:
    from llmguard.ledger import migrate as migrations

    database = engine.url.database or ""
    if engine.dialect.name == "sqlite" and not Path(database).exists():
        return None  # a look must not make the file
    return migrations.current(engine)
