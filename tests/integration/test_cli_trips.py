"""`llmguard trips` beside a store on the network: what the store holds is shown, and a reset is heard at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmguard.core.moves import Admitted, Answer, Denied, Done, Hold, Move, Reserve, Trip, Truth
from llmguard.core.runs import Tally
from llmguard.errors import LedgerUnavailable
from llmguard.ledger.audit import Trail
from llmguard.stores.redis import RedisStore
from tests.support.cli import SANDBOX, Cli
from tests.support.ledger import new_id, seed, trip
from tests.support.valkey import ValkeyServer


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[RedisStore]:
    opened = RedisStore(server.tcp_url, grace_ms=0)
    assert opened.load(lambda: Truth([], [], untouched=True))
    yield opened
    opened.close()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ValkeyServer) -> Iterator[Cli]:
    commands = Cli(tmp_path, monkeypatch)
    commands.configure(f"{SANDBOX}store: {server.tcp_url}\n")
    yield commands
    commands.close()


def ask(store: RedisStore, rng: random.Random) -> Answer:
    """A call of the task that was stopped."""
    hold = Hold("usd|total|0|", 10**9, 10**9, 1_000)
    move: Move = Reserve(
        new_id(rng), "me", 60_000, (hold,), trips=("task:t1",), tallies=(Tally("task:t1", "calls", 500, 3_600_000),)
    )
    (answer,) = store.apply([move])
    return answer


def test_a_reset_lets_a_task_run_again_and_forgets_its_counts(cli: Cli, store: RedisStore) -> None:
    rng = random.Random(seed())
    assert isinstance(ask(store, rng), Admitted)
    store.apply([Trip("task:t1")])
    assert isinstance(ask(store, rng), Denied)
    cli.ledger().trips.add(trip(), "process 1")
    (shown,) = cli.json("trips", "show", "task:t1")
    assert shown["store"] | {"tripped": True, "until": None, "counts": {"calls": 1}} == shown["store"]
    assert cli.json("trips", "reset", trip().id) == {"name": "task:t1", "trips": 1}
    assert isinstance(answer := ask(store, rng), Admitted)
    assert answer.tallied == (1,)
    assert cli.json("trips", "list") == []
    (shown,) = cli.json("trips", "show", "task:t1")
    assert (shown["store"]["tripped"], shown["reset_at"] is None) == (False, False)
    assert [row["action"] for row in cli.json("audit", "tail")] == ["trip", "trip.reset"]


def test_a_reset_forgets_what_is_held_beside_the_trip(cli: Cli, store: RedisStore) -> None:
    beside = [Trip("copy:task:t1"), Trip("retries:task:t1")]
    store.apply([Trip("task:t1"), *beside])
    cli.ok("trips", "reset", "task:t1")
    answers = store.apply(beside)
    assert [isinstance(answer, Done) and answer.changed for answer in answers] == [True, True]


def test_a_trip_whose_row_is_not_there_can_be_reset_by_its_name(cli: Cli, store: RedisStore) -> None:
    store.apply([Trip("tree:r1")])
    assert "there is no trip 'tree:other'" in cli.fails(1, "trips", "reset", "tree:other")
    assert cli.ok("trips", "reset", "tree:r1") == "tree:r1 may run again\n"
    assert "there is no trip 'tree:r1'" in cli.fails(1, "trips", "reset", "tree:r1")


def test_a_reset_that_cannot_be_recorded_does_not_happen(
    cli: Cli, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed())
    store.apply([Trip("task:t1")])
    cli.ledger().trips.add(trip(), "process 1")

    def away(*given: object) -> None:
        raise LedgerUnavailable("gone")

    monkeypatch.setattr(Trail, "append", away)
    assert "gone" in cli.fails(1, "trips", "reset", "task:t1")
    assert isinstance(ask(store, rng), Denied)
    assert len(cli.json("trips", "list")) == 1


def test_a_store_that_is_away_shows_what_the_ledger_has(cli: Cli, server: ValkeyServer) -> None:
    cli.ledger().trips.add(trip(), "process 1")
    server.kill()
    result = cli.run("trips", "show", "task:t1", "--json")
    assert result.exit_code == 0
    assert "did not answer: " in result.stderr
    assert result.stderr.endswith("; what follows is the ledger's\n")
    assert "start Redis or Valkey" in cli.fails(1, "trips", "reset", "task:t1")
