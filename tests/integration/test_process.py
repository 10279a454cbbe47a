"""Calls from within processes against a real store: exact sums from threads, forks, greenlets; outages; sudden ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.call import Caller
from llmguard.core.decision import Admit, Refuse
from llmguard.guard import Guard
from llmguard.runtime.context import context, current
from llmguard.stores.redis.levels import read_levels
from tests.support import postgres
from tests.support.process_calls import TOTAL, Process, config, cost
from tests.support.valkey import ValkeyServer

HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey(running: ValkeyServer) -> ValkeyServer:
    with running.client() as client:
        client.flushall()
    return running


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, valkey: ValkeyServer) -> Iterator[dict[str, Any]]:
    """A configuration with either kind of ledger, ready for use."""
    plain = config(tmp_path, valkey.tcp_url)
    if request.param == "sqlite":
        yield plain
        return
    with postgres.running() as url:
        made = plain | {"ledger": url, "secrets": secrets()}
        ledger = Guard(made).ledger()
        ledger.migrate()
        ledger.close()
        yield made


def secrets() -> dict[str, Any]:
    """Fresh ones, which a ledger on a server wants to be told."""
    pepper, signing, cache = (os.urandom(32).hex() for _ in range(3))
    return {"pepper": pepper, "signing": [signing], "cache": [cache]}


@contextmanager
def guarded(settings: dict[str, Any]) -> Iterator[Process]:
    made = Process(Guard(settings))
    try:
        yield made
    finally:
        made.guard.close()


def level(server: ValkeyServer, team: str) -> tuple[int, int, int, int]:
    """Settled, orphan, held, exposure."""
    found = (read_levels(server.tcp_url, [TOTAL + team]) or {}).get(TOTAL + team)
    return (found.settled, found.orphan, found.held, found.exposure) if found else (0, 0, 0, 0)


@contextmanager
def side(mode: str, settings: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, ended by its id whatever happens."""
    python = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
    command = [*python, "-m", "tests.support.process_side", mode, json.dumps(settings)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told_by(mode: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a process says that ends by itself."""
    with side(mode, settings) as process:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    return dict(json.loads(out))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


# ---------------------------------------------------------------------- threads and loops


def test_sums_are_exact_however_many_threads_call(tmp_path: Path, valkey: ValkeyServer) -> None:
    with guarded(config(tmp_path, valkey.tcp_url)) as world:

        def work(number: int) -> int:
            with context(team=f"t{number % 2}", feature=f"f{number}"):
                for output in range(40):
                    assert isinstance(world.call(current(), output), Admit)
            return sum(cost(output) for output in range(40))

        with ThreadPoolExecutor(8) as pool:
            spent = sum(pool.map(work, range(8)))
        world.guard.close()
        assert world.spent() == {"t0": spent // 2, "t1": spent // 2}
        assert [level(valkey, team) for team in ("t0", "t1")] == [(spent // 2, 0, 0, 0)] * 2
    assert list((tmp_path / "spool").iterdir()) == []


def test_threads_together_never_pass_a_limit(tmp_path: Path, valkey: ValkeyServer) -> None:
    with guarded(config(tmp_path, valkey.tcp_url, limit="$0.005")) as world, ThreadPoolExecutor(8) as pool:
        decisions = list(pool.map(lambda _: world.call(Caller(team="tight"), 90), range(200)))
        admitted = [decision for decision in decisions if isinstance(decision, Admit)]
        world.guard.close()
        assert world.spent() == {"tight": len(admitted) * cost(90)}
        assert 5_000_000 - cost(100) - 20_000 < len(admitted) * cost(90) <= 5_000_000
        codes = {decision.code for decision in decisions if isinstance(decision, Refuse)}
        assert codes <= {"budget_exceeded", "budget_insufficient", "budget_contended"}


def test_coroutines_of_several_loops_and_threads_share_one_account(tmp_path: Path, valkey: ValkeyServer) -> None:
    with guarded(config(tmp_path, valkey.tcp_url)) as world:

        async def work(team: str) -> bool:
            async with context(team=team):
                return isinstance(await world.acall(current()), Admit)

        async def gathered(team: str) -> int:
            return sum(await asyncio.gather(*[work(team) for _ in range(30)]))

        with ThreadPoolExecutor(4) as pool:
            loops = [pool.submit(asyncio.run, gathered(f"loop{number}")) for number in range(3)]
            plain = pool.submit(lambda: sum(isinstance(world.call(Caller(team="plain")), Admit) for _ in range(30)))
            assert [work.result(30) for work in (*loops, plain)] == [30] * 4
        assert asyncio.run(gathered("loop0")) == 30
        world.guard.close()
        assert world.spent() == {"loop0": 60 * cost(20)} | {n: 30 * cost(20) for n in ("loop1", "loop2", "plain")}
        assert level(valkey, "loop0") == (60 * cost(20), 0, 0, 0)


def test_two_guards_in_one_process_keep_apart(tmp_path: Path, valkey: ValkeyServer) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    with guarded(config(homes[0], valkey.tcp_url)) as one, guarded(config(homes[1])) as two:
        assert one.service is one.guard.process()
        assert one.service is not two.service
        for world, number in ((one, 3), (two, 5)):
            for _ in range(number):
                assert isinstance(world.call(Caller(team="search")), Admit)
        one.guard.close()
        assert isinstance(two.call(Caller(team="search")), Admit)
        two.guard.close()
        assert (one.spent(), two.spent()) == ({"search": 3 * cost(20)}, {"search": 6 * cost(20)})
        assert level(valkey, "search")[0] == 3 * cost(20)


def test_a_guard_that_was_closed_starts_again(tmp_path: Path) -> None:
    with guarded(config(tmp_path)) as world:
        for _ in range(2):
            assert isinstance(world.call(Caller(team="search")), Admit)
            world.guard.close()
        world.guard.close()
        assert world.spent() == {"search": 2 * cost(20)}
        assert not {"llmguard-store", "llmguard-ledger", "llmguard-shipper"} & {t.name for t in threading.enumerate()}


def test_a_store_in_memory_knows_what_was_spent_before(tmp_path: Path) -> None:
    settings = config(tmp_path, limit="$0.0002")
    with guarded(settings) as world:
        assert isinstance(world.call(Caller(team="search"), 90), Admit)
    with guarded(settings) as world:
        refusal = world.call(Caller(team="search"), 90)
        assert isinstance(refusal, Refuse)
        assert (refusal.code, refusal.spent) == ("budget_insufficient", cost(90))


# ---------------------------------------------------------------------- processes


def test_children_forked_in_mid_use_share_nothing_with_their_parent(
    tmp_path: Path, valkey: ValkeyServer, settings: dict[str, Any]
) -> None:
    told = told_by("prefork", settings)
    assert told["statuses"] == [0, 0, 0]
    assert Process(Guard(settings)).spent() == {"parent": told["parent"] * cost(20), "child": 150 * cost(20)}
    assert level(valkey, "child") == (150 * cost(20), 0, 0, 0)
    assert level(valkey, "parent") == (told["parent"] * cost(20), 0, 0, 0)
    assert list((tmp_path / "spool").iterdir()) == []


def test_greenlets_call_as_threads_do(valkey: ValkeyServer, settings: dict[str, Any]) -> None:
    told = told_by("gevent", settings)
    assert told == {"admitted": 100, "threads": ["llmguard-ledger", "llmguard-shipper", "llmguard-store"]}
    assert Process(Guard(settings)).spent() == {"green": 100 * cost(20)}
    assert level(valkey, "green") == (100 * cost(20), 0, 0, 0)


def test_a_process_that_just_ends_has_put_its_calls_on_record(tmp_path: Path, valkey: ValkeyServer) -> None:
    assert told_by("leaver", config(tmp_path, valkey.tcp_url)) == {"admitted": 3}
    assert Process(Guard(config(tmp_path))).spent() == {"leaver": 3 * cost(20)}
    assert level(valkey, "leaver") == (3 * cost(20), 0, 0, 0)
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_a_killed_process_left_is_adopted_exactly_once(tmp_path: Path, valkey: ValkeyServer) -> None:
    settings = config(tmp_path, valkey.tcp_url)
    with side("victim", settings) as victim:
        assert victim.stdout is not None
        estimate = json.loads(victim.stdout.readline())["estimate"]
        victim.send_signal(signal.SIGKILL)
    spent = 5 * cost(20) + estimate
    worlds = [Process(Guard(settings)) for _ in range(3)]
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda world: world.call(Caller(team="heir")), worlds))
        until(lambda: level(valkey, "victim") == (spent, 0, 0, 0))
    finally:
        for world in worlds:
            world.guard.close()
    assert worlds[0].spent() == {"victim": spent, "heir": 3 * cost(20)}
    assert list((tmp_path / "spool").iterdir()) == []


# ---------------------------------------------------------------------- what is away


def timed(world: Process) -> tuple[float, Any]:
    start = time.monotonic()
    decision = world.call(Caller(team="search"))
    return time.monotonic() - start, decision


def test_a_store_that_freezes_delays_nobody_and_hears_the_rest_afterwards(tmp_path: Path, valkey: ValkeyServer) -> None:
    with guarded(config(tmp_path, valkey.tcp_url)) as world:
        assert isinstance(world.call(Caller(team="search")), Admit)
        x = world.exchange(Caller(team="search"))
        decision = world.service.run(x.open(x.now))
        valkey.freeze()
        try:
            world.answer(x, decision, 20)
            taken, _ = timed(world)
            assert taken < 1.0
        finally:
            valkey.thaw()
        until(lambda: world.service.link.owed == 0)
        until(lambda: isinstance(world.call(Caller(team="after")), Admit))
        assert level(valkey, "search")[2] == 0
        assert level(valkey, "search")[0] >= 2 * cost(20)


def test_a_process_that_starts_while_its_store_is_silent_decides(tmp_path: Path, valkey: ValkeyServer) -> None:
    valkey.freeze()
    try:
        with guarded(config(tmp_path, valkey.tcp_url)) as world:
            taken, _ = timed(world)
            assert taken < 3.0
            taken, _ = timed(world)
            assert taken < 1.0
    finally:
        valkey.thaw()


@pytest.mark.parametrize("store", ["memory://", "valkey"])
def test_a_process_that_starts_without_its_ledger_decides(tmp_path: Path, valkey: ValkeyServer, store: str) -> None:
    url = valkey.tcp_url if store == "valkey" else store
    away = {"ledger": "postgresql://nobody@127.0.0.1:9/none", "secrets": secrets()}
    with guarded(config(tmp_path, url) | away) as world:
        taken, _ = timed(world)
        assert taken < 3.0
        assert world.service.not_ready()[0].startswith("ledger: ")
        taken, _ = timed(world)
        assert taken < 0.5
