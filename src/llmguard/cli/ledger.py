"""`llmguard migrate` and `llmguard report`."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json, print_table
from llmguard.config.units import Wrong, duration
from llmguard.ledger import migrate as migrations
from llmguard.ledger.reports import DIMENSIONS
from llmguard.runtime.ids import now_ms

_MEASURES = ("calls", "input_tokens", "output_tokens", "cached_input_tokens", "cost_usd", "saved_usd", "refused")


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.command()(migrate)
    root.command()(report)


def migrate(
    config: ConfigOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 when there is something to do.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
) -> None:
    """Bring the ledger's database to this program's schema."""
    guard = open_guard(config)
    if sql:
        typer.echo(migrations.sql(guard.config.ledger))
        return
    ledger = guard.ledger()
    if check:
        ledger.check()
    else:
        ledger.migrate()
    typer.echo(f"the ledger is at revision {migrations.head()}")


def report(
    by: Annotated[str, typer.Option(help=f"Group by any of {', '.join(DIMENSIONS)}.")] = "team",
    since: Annotated[str, typer.Option(help="How far back (7d, 12h) or a date (2026-11-01).")] = "7d",
    until: Annotated[str | None, typer.Option(help="End, as --since; now where left out.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Who spent what."""
    dimensions = [name.strip() for name in by.split(",") if name.strip()]
    guard = open_guard(config)
    ledger = guard.ledger()
    ledger.make_ready()
    guard.books(ledger).prepare()
    now = now_ms()
    start, end = _moment("--since", since, now), now if until is None else _moment("--until", until, now)
    try:
        result = ledger.report(dimensions, start, end)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        print_json(result)
    elif as_csv:
        _print_csv(dimensions, result["rows"])
    else:
        total = dict.fromkeys(dimensions[:1], "total") | result["total"]
        print_table((*dimensions, *_MEASURES), [*result["rows"], total])


def _print_csv(dimensions: list[str], rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, [*dimensions, *_MEASURES], extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    """A spreadsheet takes a cell that begins like a formula for one; a quote in front keeps it text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _moment(option: str, text: str, now: int) -> int:
    try:
        return now - duration(text)
    except Wrong:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}: write 7d, 12h or a date such as 2026-11-01") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
