"""`llmguard budgets list`: how every budget stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import typer

from llmguard.cli.common import ConfigOption, JsonOption, open_guard, print_json, print_table
from llmguard.core.buckets import Bucket
from llmguard.core.money import usd_string

app = typer.Typer(help="Budgets and how they stand.", no_args_is_help=True)

_COLUMNS = ("rule", "scope", "window", "limit", "settled", "remaining", "unit", "reset_at", "mode")


@app.command("list")
def list_budgets(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Every budget in its current window, one row per bucket that was used; settled amounts are the ledger's."""
    guard = open_guard(config)
    ledger = guard.ledger()
    ledger.make_ready()
    books = guard.books(ledger)
    books.prepare()
    rows = [_row(bucket, settled) for bucket, settled in books.standing()]
    if as_json:
        print_json({"budgets": rows})
    else:
        readable = [
            row | {"scope": ", ".join(f"{k}={v}" for k, v in row["scope"].items()) or "everyone"} for row in rows
        ]
        print_table(_COLUMNS, readable)


def _row(bucket: Bucket, settled: int) -> dict[str, Any]:
    def amount(number: int) -> str:
        return usd_string(number) if bucket.unit == "usd" else str(number)

    reset_at = datetime.fromtimestamp(bucket.end / 1000, UTC).isoformat() if bucket.end else None
    return {
        "rule": bucket.rule,
        "scope": dict(bucket.scope),
        "window": bucket.window,
        "unit": bucket.unit,
        "limit": amount(bucket.limit),
        "settled": amount(settled),
        "held": amount(0),
        "remaining": amount(max(bucket.limit - settled, 0)),
        "reset_at": reset_at,
        "mode": "enforce",
    }
