"""`llmguard budgets list`: how every budget stands."""

# ruff: noqa: PLC0415  the command loads what it needs when it runs, and Redis only where it is used

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from llmguard.cli.common import (
    MEMORY,
    ConfigOption,
    JsonOption,
    moment,
    open_guard,
    open_ledger,
    print_json,
    print_table,
    say,
)
from llmguard.core.money import usd_string
from llmguard.errors import StoreUnavailable

if TYPE_CHECKING:
    from llmguard.core.buckets import Bucket
    from llmguard.core.moves import Level
    from llmguard.guard import Guard

app = typer.Typer(help="Budgets and how they stand.", no_args_is_help=True)

_COLUMNS = ("rule", "scope", "window", "limit", "settled", "held", "remaining", "unit", "reset_at", "mode")


@app.command("list")
def list_budgets(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every budget in its current window.

    Where a scope has a `*`, there is one row for each value that was charged. What is held for running calls is known
    to a store on the network only; one in memory is the serving process's own.
    """
    from llmguard.cli.spools import ship_dead_spools

    guard = open_guard(config)
    with open_ledger(guard) as ledger:
        ship_dead_spools(guard, ledger)
        standing = guard.books(ledger).standing()
    levels = _levels(guard, standing)
    modes = {rule.name: rule.mode for rule in guard.config.budget_rules}
    rows = [
        _row(bucket, settled, level, modes.get(bucket.rule, "enforce"))
        for (bucket, settled), level in zip(standing, levels, strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    print_table(_COLUMNS, [row | {"scope": _readable(row["scope"])} for row in rows])
    if any(row["held"] is None for row in rows):
        say("held: live calls of the serving process are not visible here")


def _levels(guard: Guard, standing: Sequence[tuple[Bucket, int]]) -> Sequence[Level | None]:
    """What the store knows of each bucket; None where it is in memory, away, or not loaded yet."""
    unknown = [None] * len(standing)
    if guard.config.store == MEMORY:
        return unknown
    from llmguard.core.moves import Level
    from llmguard.stores.redis.levels import read_levels

    try:
        found = read_levels(guard.config.store, [bucket.name for bucket, _ in standing])
    except StoreUnavailable as error:
        say(f"{error}; the amounts are the ledger's")
        return unknown
    if found is None:
        return unknown
    return [found.get(bucket.name, Level(settled, 0, 0, 0)) for bucket, settled in standing]


def _row(bucket: Bucket, settled: int, level: Level | None, mode: str) -> dict[str, Any]:
    def amount(number: int) -> str:
        return usd_string(number) if bucket.unit == "usd" else str(number)

    if level is not None:
        settled, orphan, held = level.settled, level.orphan, level.held
    else:
        orphan = held = 0
    return {
        "rule": bucket.rule,
        "scope": dict(bucket.scope),
        "window": bucket.window,
        "unit": bucket.unit,
        "limit": amount(bucket.limit),
        "settled": amount(settled),
        "orphan": None if level is None else amount(orphan),
        "held": None if level is None else amount(held),
        "remaining": amount(max(bucket.limit - settled - orphan - held, 0)),
        "reset_at": moment(bucket.resets_at) if bucket.resets_at else None,
        "mode": mode,
    }


def _readable(scope: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in scope.items()) or "everyone"
