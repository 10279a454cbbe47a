"""`llmguard report`: who spent what."""

# ruff: noqa: PLC0415  the command loads what it needs when it runs

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, open_ledger, print_json, print_table
from llmguard.runtime.ids import now_ms

_MEASURES = ("calls", "input_tokens", "output_tokens", "cached_input_tokens", "cost_usd", "saved_usd", "refused")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(report)


def report(
    by: Annotated[
        str, typer.Option(help="Group by any of org, team, env, feature, key, provider, model, end_user, day, hour.")
    ] = "team",
    since: Annotated[str, typer.Option(help="How far back (7d, 12h), or a date (2026-11-01).")] = "7d",
    until: Annotated[str | None, typer.Option(help="End, written like --since; now where left out.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Who spent what."""
    from llmguard.cli.spools import ship_dead_spools

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv: choose one of the two")
    now = now_ms()
    start, end = _moment("--since", since, now), now if until is None else _moment("--until", until, now)
    if end < start:
        raise typer.BadParameter(f"--until {until} is before --since {since}")
    dimensions = _dimensions(by)
    guard = open_guard(config)
    with open_ledger(guard) as ledger:
        ship_dead_spools(guard, ledger)
        result = ledger.report(dimensions, start, end)
    if as_json:
        print_json(result)
    elif as_csv:
        _print_csv(dimensions, result["rows"])
    else:
        total = dict.fromkeys(dimensions[:1], "total") | result["total"]
        print_table((*dimensions, *_MEASURES), [*result["rows"], total])


def _dimensions(by: str) -> list[str]:
    from llmguard.ledger.reports import DIMENSIONS

    wanted = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in DIMENSIONS]
    if unknown:
        raise typer.BadParameter(f"--by cannot be {', '.join(unknown)}; it can be {', '.join(DIMENSIONS)}")
    return wanted


def _print_csv(dimensions: Sequence[str], rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, [*dimensions, *_MEASURES])
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {name: _as_text(row[name]) for name in dimensions})


def _as_text(value: Any) -> Any:
    """A spreadsheet takes a cell that begins like a formula for one; a quote in front keeps it text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _moment(option: str, text: str, now: int) -> int:
    from llmguard.config.units import Wrong, duration

    try:
        return now - duration(text)
    except Wrong:
        pass
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}: write 7d, 12h or a date such as 2026-11-01") from None
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1000)
