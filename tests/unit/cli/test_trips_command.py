"""`llmguard trips` beside a memory store; with a store on the network see the integration tests."""

from __future__ import annotations

import random

import pytest

from tests.support.cli import SANDBOX, Cli
from tests.support.ledger import new_id, seed, trip


@pytest.fixture(autouse=True)
def configured(cli: Cli) -> None:
    cli.configure(SANDBOX)


def test_trips_are_listed_and_shown_with_amounts_as_people_write_them(cli: Cli) -> None:
    rng = random.Random(seed())
    money = trip(id=new_id(rng), name="tree:r1", scope="tree", rule="tree_budget", allowed=50 * 10**9, seen=51 * 10**9)
    cli.ledger().trips.add(trip(), "process 1")
    cli.ledger().trips.add(trip(**{**vars_of(money), "unit": "usd", "at": money.at + 5_000}), "process 1")
    newest, oldest = cli.json("trips", "list")
    assert (
        newest | {"limit": "50", "seen": "51", "unit": "usd", "name": "tree:r1", "at": "2026-09-21T14:15:05Z"} == newest
    )
    assert oldest | {"limit": "4", "seen": "4", "unit": "attempts", "cost_usd": "1.2", "reset_at": None} == oldest
    assert cli.ok("trips", "list").splitlines()[1].split()[:6] == [
        *("2026-09-21T14:15:05Z", "tree:r1", "tree_budget", "50", "51", "usd"),
    ]
    (shown,) = cli.json("trips", "show", trip().id)
    assert shown == oldest | {"store": None}
    assert cli.json("trips", "show", "task:t1") == [shown]
    text = cli.ok("trips", "show", "task:t1")
    assert "cost_usd     1.2\n" in text
    assert "store        not known here\n" in text


def vars_of(row: object) -> dict[str, object]:
    return {name: getattr(row, name) for name in type(row).__dataclass_fields__}  # type: ignore[attr-defined]


def test_resets_are_left_out_unless_all_are_wanted(cli: Cli) -> None:
    cli.ledger().trips.add(trip(), "process 1")
    cli.ledger().trips.reset("task:t1", "alice@host")
    assert cli.json("trips", "list") == []
    (row,) = cli.json("trips", "list", "--all")
    assert row["reset_by"] == "alice@host"


def test_a_trip_that_is_not_there(cli: Cli) -> None:
    assert "there is no trip 'x'; `llmguard trips list --all`" in cli.fails(1, "trips", "show", "x")


def test_a_store_in_memory_cannot_be_reset_from_outside_and_nothing_is_recorded(cli: Cli) -> None:
    cli.ledger().trips.add(trip(), "process 1")
    assert "in the memory of the process that was stopped" in cli.fails(1, "trips", "reset", "task:t1")
    assert len(cli.json("trips", "list")) == 1
    assert [row["action"] for row in cli.json("audit", "tail")] == ["trip"]
