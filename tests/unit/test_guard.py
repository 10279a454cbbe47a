"""The guard as an object: cheap to import, one service a process, how its budgets stand, what is wrong around it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmguard
from llmguard.core.call import Caller
from llmguard.core.decision import Admit
from llmguard.core.exchange import Ending
from llmguard.guard import Guard
from llmguard.runtime.remaining import Remaining
from tests.support.process_calls import Process, config, cost
from tests.support.valkey import ValkeyServer

RULES = [
    {"name": "team", "scope": {"team": "*"}, "limit": "$1", "window": "total"},
    {"name": "prod", "scope": {"team": "search", "env": "prod"}, "limit": "$2", "window": "day"},
    {"name": "feature", "scope": {"team": "*", "feature": "*"}, "limit": "1M tokens", "window": "total"},
    {"name": "growth", "scope": {"team": "growth"}, "limit": "$3", "window": "total"},
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Process]:
    made = Process(Guard(config(tmp_path) | {"budgets": RULES}))
    yield made
    made.guard.close()


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, llmguard; print([m for m in sys.modules if m.startswith('llmguard.') or m == 'asyncio'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in llmguard.__all__:
        assert getattr(llmguard, name) is not None
    assert set(llmguard.__all__) <= set(dir(llmguard))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = llmguard.nonsense


def test_the_default_guard_is_the_last_one_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmguard.guard._chosen", {})
    made = llmguard.configure(config(tmp_path))
    assert llmguard.get_guard() is made
    other = llmguard.configure(config(tmp_path))
    assert llmguard.get_guard() is other


def test_making_a_guard_starts_nothing_and_touches_no_file(tmp_path: Path) -> None:
    before = threading.active_count()
    Guard(config(tmp_path))
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_many_threads_that_ask_at_once_get_one_service(world: Process) -> None:
    barrier, found = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait(10)
        found.append(world.guard.process())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def by_rule(found: list[Remaining]) -> dict[str, tuple[int, int, int]]:
    return {one.rule: (one.spent, one.held, one.remaining) for one in found}


def test_what_remains_is_told_for_the_budgets_that_count_for_a_scope(world: Process) -> None:
    me = Caller(team="search", env="prod", feature="chat")
    assert isinstance(world.call(me, 90), Admit)
    x = world.exchange(me)
    assert isinstance(world.service.run(x.open(x.now)), Admit)
    spent, held = cost(90), x.estimate_nano
    dollar = 10**9
    guard = world.guard
    assert by_rule(guard.remaining(team="search", env="prod")) == {
        "team": (spent, held, dollar - spent - held),
        "prod": (spent, held, 2 * dollar - spent - held),
    }
    assert by_rule(guard.remaining(team="search", env="dev", feature="chat")) == {
        "team": (spent, held, dollar - spent - held),
        "feature": (100, held // 1_000, 1_000_000 - 100 - held // 1_000),
    }
    assert by_rule(asyncio.run(guard.aremaining(team="growth"))) == {
        "team": (0, 0, dollar),
        "growth": (0, 0, 3 * dollar),
    }
    assert guard.remaining() == []
    team, prod = guard.remaining(team="search", env="prod")
    assert (team.reset_at, team.window, team.unit, dict(team.scope)) == (None, "total", "usd", {"team": "search"})
    assert prod.reset_at is not None
    assert prod.reset_at % 86_400_000 == 0
    world.service.close(x, Ending.CALLER_GONE)


def test_what_remains_is_the_ledger_s_word_while_the_store_is_away(tmp_path: Path) -> None:
    with ValkeyServer() as server:
        world = Process(Guard(config(tmp_path, server.tcp_url)))
        assert isinstance(world.call(Caller(team="search")), Admit)
        world.service.shipper.flush(10)
        server.kill()
        try:
            assert by_rule(world.guard.remaining(team="search")) == {"team": (cost(20), 0, 10**11 - cost(20))}
        finally:
            world.guard.close()


def test_a_check_names_what_is_away(tmp_path: Path) -> None:
    assert Guard(config(tmp_path)).check() == []
    assert list(tmp_path.iterdir()) == []
    secrets = {"pepper": "a1b2c3d4e5f60718" * 4, "signing": ["0f1e2d3c4b5a6978" * 4], "cache": ["9f8e7d6c5b4a3928" * 4]}
    away = {"store": "redis://127.0.0.1:9/0", "ledger": "postgresql://nobody@127.0.0.1:9/none", "secrets": secrets}
    store, ledger = Guard(config(tmp_path) | away).check()
    assert (store.where, ledger.where) == ("store", "ledger")
    assert "127.0.0.1:9" in store.message
    assert "127.0.0.1:9" in ledger.message


def test_a_check_refuses_a_store_that_would_throw_spend_away(tmp_path: Path) -> None:
    with ValkeyServer(maxmemory="50mb", maxmemory_policy="allkeys-lru") as server:
        (problem,) = Guard(config(tmp_path, server.tcp_url)).check()
    assert "allkeys-lru" in problem.message
