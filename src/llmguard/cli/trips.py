"""`llmguard trips list|show|reset`: what the runaway guard has stopped."""

# ruff: noqa: PLC0415  each command loads what it needs when it runs, and Redis only where it is used

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmguard.cli.common import (
    MEMORY,
    ConfigOption,
    JsonOption,
    actor,
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
    from llmguard.core.moves import Answer, Move
    from llmguard.core.runs import Standing
    from llmguard.guard import Guard
    from llmguard.ledger import TripRow

app = typer.Typer(help="What the runaway guard has stopped.", no_args_is_help=True)

_COLUMNS = ("at", "name", "rule", "limit", "seen", "unit", "team", "feature", "task", "cost_usd", "reset_at")
_Which = Annotated[str, typer.Argument(help="A trip's id or its name, as `trips list` shows them.")]


@app.command("list")
def list_trips(
    every: Annotated[bool, typer.Option("--all", help="Also those that were reset.")] = False,
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=10_000, help="How many at most.")] = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was stopped and not let run again, the newest first."""
    with open_ledger(open_guard(config)) as ledger:
        rows = [_row(trip) for trip in ledger.trips.list(active=not every, limit=number)]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows)


@app.command()
def show(which: _Which, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all that is known of a trip, and what the quota store still holds against its name."""
    guard = open_guard(config)
    with open_ledger(guard) as ledger:
        found = ledger.trips.get(which)
    if not found:
        _unknown(which)
    standing = _standing(guard, found[0].name)
    documents = [_row(trip) | {"store": standing} for trip in found]
    if as_json:
        print_json(documents)
        return
    for document in documents:
        store = document.pop("store") or {"store": "not known here"}
        for name, value in (document | store).items():
            typer.echo(f"{name:12} {'-' if value is None else value}")


@app.command()
def reset(which: _Which, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Let a task, tree, task name or feature run again.

    What was counted of it is forgotten too. Everybody who shares the trip's name is free at once.
    """
    guard = open_guard(config)
    if guard.config.store == MEMORY:
        say(
            "the quota store is in the memory of the process that was stopped, and ends with it; "
            "`store: redis://…` can be reset from here"
        )
        raise typer.Exit(1)
    with open_ledger(guard) as ledger:
        found = ledger.trips.get(which)
        name = found[0].name if found else which
        if not found and not (_standing(guard, name) or {}).get("tripped"):
            _unknown(which)
        from llmguard.core.moves import Untrip
        from llmguard.core.runaway import names_of

        ended = ledger.trips.reset(name, actor())
        _apply(guard, [Untrip(each) for each in names_of(name)])
    if as_json:
        print_json({"name": name, "trips": ended})
    else:
        typer.echo(f"{name} may run again")


def _unknown(which: str) -> None:
    say(f"there is no trip {which!r}; `llmguard trips list --all` shows all of them")
    raise typer.Exit(1)


def _standing(guard: Guard, name: str) -> dict[str, Any] | None:
    """What the store knows of a name; None where it knows nothing or is away or in another process's memory."""
    if guard.config.store == MEMORY:
        return None
    from llmguard.core.runs import Peek, Seen

    try:
        (answer,) = _apply(guard, [Peek((name,))])
    except StoreUnavailable as error:
        say(f"{error}; what follows is the ledger's")
        return None
    return _known(answer.standings[0]) if isinstance(answer, Seen) else None


def _known(standing: Standing) -> dict[str, Any]:
    until = standing.until
    return {
        "tripped": until is not None,
        "until": moment(until) if until else None,
        "counts": dict(standing.counts),
        "paid": standing.paid,
        "started": standing.started,
        "lost": standing.lost,
        "running": standing.running,
    }


def _apply(guard: Guard, moves: Sequence[Move]) -> list[Answer]:
    from llmguard.stores.redis import RedisStore

    store = RedisStore(guard.config.store)
    try:
        return store.apply(moves)
    finally:
        store.close()


def _row(trip: TripRow) -> dict[str, Any]:
    def amount(number: int) -> str:
        return usd_string(number) if trip.unit == "usd" else str(number)

    row = asdict(trip)
    del row["allowed"], row["cost_nano"]
    times = {"at": moment(trip.at), "reset_at": moment(trip.reset_at)}
    return (
        row | times | {"limit": amount(trip.allowed), "seen": amount(trip.seen), "cost_usd": usd_string(trip.cost_nano)}
    )
