"""Spend survives the end of the process: a polite one under load, and kill -9 at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import pytest

from llmguard.core.money import usd_string
from tests.support import postgres
from tests.support.gateway import Gateway, gateway
from tests.support.load import CHAT, Body, Outcome, load, metered, steady_port, usage_of
from tests.support.sight import check_store, entries
from tests.support.upstream import Answer, Upstream, upstream
from tests.support.valkey import ValkeyServer

PRICES = {"local/*": {"input": "$5/M", "output": "$15/M", "output_max": 4_096}}
INPUT_NANO, OUTPUT_NANO = 5_000, 15_000
TEAM = {"name": "team", "scope": {"team": "*"}, "limit": "$10000", "window": "total"}
SECRETS = {"pepper": token_hex(32), "signing": [token_hex(32)], "cache": [token_hex(32)]}
LIVE = {"name": "live", "scope": {"team": "*"}, "limit": "500 concurrent"}


def config(provider: Upstream, **more: Any) -> dict[str, Any]:
    local = {"dialect": "openai", "base_url": f"{provider.url}/v1", "keys": ["sk-local"], "internal": True}
    return {"providers": {"local": local}, "prices": PRICES, "budgets": [TEAM], "limits": [LIVE]} | more


def chat(name: str) -> Any:
    """Whole calls, short streams and long ones in turn, each with a `user` of its own."""

    def make(number: int) -> Body:
        messages = [{"role": "user", "content": "Say something that takes a while, please."}]
        body: Body = {"model": "gpt-4o", "messages": messages, "max_tokens": 60, "user": f"{name}-{number}"}
        if number % 2:
            body |= {"stream": True, "max_tokens": 2_000 if number % 4 == 3 else 60}
        return body

    return make


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with upstream() as running:
        running.reply(metered())
        yield running


def reached(provider: Upstream) -> set[str]:
    """The calls that the provider has seen."""
    return {seen.json()["user"] for seen in provider.requests}


def check_rows(served: Gateway, outcomes: Sequence[Outcome], sent: set[str]) -> Counter[str]:
    """Every call that went out has one row; one that was delivered, its provider's usage. Counts the sources."""
    rows = served.rows()
    caps = {row["event_id"]: row["cap_nano"] for row in entries(served)}
    assert max(Counter(row["event_id"] for row in rows).values()) == 1
    by_user = defaultdict(list)
    for row in rows:
        assert row["kind"] == "POST"
        by_user[row["end_user"]].append(row)
    twice = {user: found for user, found in by_user.items() if len(found) != 1}
    assert not twice, twice
    for outcome in outcomes:
        if outcome.delivered:
            assert outcome.user in sent
            (row,) = by_user[outcome.user]
            assert str(row["event_id"]) == outcome.request_id
            prompt, output = usage_of(outcome.user)
            assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("provider", prompt, output)
            assert row["cost_nano"] == prompt * INPUT_NANO + output * OUTPUT_NANO
    for user in sent:
        assert user in by_user, f"{user} reached the provider and is not in the ledger"
        (row,) = by_user[user]
        assert row["cost_nano"] > 0
        assert row["usage_source"] == "provider" or row["cost_nano"] <= caps[str(row["event_id"])], row
    return Counter(row["usage_source"] for row in rows)


def not_ready(served: Gateway, within: float) -> str:
    """What `/readyz` said first that was not `ready`; a refused connection is said by the kernel."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            reply = httpx2.get(f"{served.url}/readyz", timeout=2)
        except httpx2.TransportError:
            return "refused"
        if reply.status_code == 503:
            return str(reply.json()["reasons"])
        time.sleep(0.005)
    raise AssertionError(f"still ready {within} s after the signal")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_ends_all_calls_and_loses_and_doubles_none(
    tmp_path: Path, provider: Upstream, workers: int
) -> None:
    provider.reply(metered(delay=0.4, gap=0.1))
    port = steady_port()
    server = {"host": "127.0.0.1", "port": port, "workers": workers}
    with (
        ValkeyServer() as store,
        gateway(tmp_path, config(provider, store=store.tcp_url, server=server), port=port) as served,
    ):
        key = served.key()
        with load(served.port, key, chat("term"), callers=24) as running:
            provider.wait_for(lambda u: len(u.requests) > 100, 30)
            assert served.process is not None
            served.process.send_signal(signal.SIGTERM)
            assert not_ready(served, 1.0) in ("['shutting down']", "refused")
            assert served.process.wait(30) == 0
            running.stop()
        outcomes, sent = running.outcomes, reached(provider)
        answered = {outcome.user for outcome in outcomes if outcome.delivered}
        assert sent == answered, "calls that were running at the signal were not all delivered"
        sources = check_rows(served, outcomes, sent)
        assert sources == {"provider": len(sent)}
        check_store(store, sum(row["cost_nano"] for row in served.rows()), timeout=0)
        assert list((tmp_path / "spool").iterdir()) == []
        served.process = None


def test_calls_that_outlast_the_drain_are_broken_off_and_charged_by_estimate(
    tmp_path: Path, provider: Upstream
) -> None:
    provider.reply(Answer(fault="hang"))
    port = steady_port()
    server = {"host": "127.0.0.1", "port": port, "drain": "1s"}
    with (
        ValkeyServer() as store,
        gateway(tmp_path, config(provider, store=store.tcp_url, server=server), port=port) as served,
    ):
        key = served.key()
        with load(served.port, key, chat("late"), callers=4) as running:
            provider.wait_for(lambda u: len(u.requests) == 4)
            began = time.monotonic()
            assert served.stop() == 0
            took = time.monotonic() - began
            running.stop()
        assert 1.0 <= took < 6.0
        assert not running.delivered()
        provider.wait_for(lambda u: not u.alive, 1)
        rows = entries(served)
        assert [(row["usage_source"], row["interrupted"]) for row in rows] == [("estimated", "caller_gone")] * 4
        assert all(0 < row["cost_nano"] <= row["cap_nano"] for row in rows)
        check_store(store, sum(row["cost_nano"] for row in rows), timeout=0)
        assert list((tmp_path / "spool").iterdir()) == []


@contextmanager
def mortal(home: Path, settings: dict[str, Any], port: int) -> Iterator[Gateway]:
    """A gateway that the test starts and kills; what is left running at the end is killed."""
    served = Gateway(home, settings, port=port)
    try:
        yield served
    finally:
        if served.process is not None:
            served.stop(signal.SIGKILL)


def kill(served: Gateway) -> None:
    """kill -9; whoever started the process sees it end."""
    assert served.stop(signal.SIGKILL) == -signal.SIGKILL


def kill_again_and_again(served: Gateway, rng: random.Random, times: int) -> list[float]:
    """Start and kill; every fifth time while it starts, the other times under load. Returns how long starts took."""
    starts = []
    for number in range(times):
        began = time.monotonic()
        if number % 5 == 4:
            served.launch()
            time.sleep(rng.uniform(0.5, 3.0))
        else:
            served.start()
            starts.append(time.monotonic() - began)
            time.sleep(rng.uniform(0.2, 2.0))
        kill(served)
    return starts


def seeded() -> random.Random:
    """A generator whose seed can be read in the output, and given by LLMGUARD_TEST_SEED."""
    seed = int(os.environ.get("LLMGUARD_TEST_SEED", random.randrange(10**6)))
    print(f"seed {seed}")
    return random.Random(seed)


def refusal_under(home: Path, provider: Upstream, port: int, key: str, **more: Any) -> dict[str, Any]:
    """What the guard says is spent and held, when the same buckets get a limit that nothing fits into."""
    small = config(provider, budgets=[TEAM | {"limit": "$0.000001"}], limits=[], **more)
    with gateway(home, small, port=port) as served:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "user": "late-0"}
        reply = httpx2.post(served.url + CHAT, json=body, headers={"authorization": f"Bearer {key}"})
        assert reply.status_code in (403, 429), reply.text
        refused: dict[str, Any] = reply.json()["error"]["llmguard"]
        return refused


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path, provider: Upstream) -> None:
    rng, port = seeded(), steady_port()
    with mortal(tmp_path, config(provider), port) as served:
        key = served.key()
        with load(port, key, chat("kill"), callers=16) as running:
            starts = kill_again_and_again(served, rng, 20)
            running.stop()
        assert len(running.delivered()) > 100
        left = refusal_under(tmp_path, provider, port, key)
        sources = check_rows(served, running.outcomes, reached(provider))
        assert sources["estimated"] > 0, "no kill met a stream that had come some way"
        assert sources["hold"] > 0, "no kill met a call that had just begun"
        assert left["spent"] == usd_string(sum(row["cost_nano"] for row in served.rows()))
        assert left["held"] == usd_string(0)
    assert list((tmp_path / "spool").iterdir()) == []
    print(f"{len(running.outcomes)} calls, {len(running.delivered())} delivered, rows {dict(sources)}")
    print("seconds to start:", [round(s, 2) for s in starts])


@pytest.mark.slow
def test_three_kills_on_postgresql_and_valkey(tmp_path: Path, provider: Upstream) -> None:
    rng, port = seeded(), steady_port()
    with postgres.running() as server, ValkeyServer() as store:
        settings = config(provider, ledger=server, store=store.tcp_url, secrets=SECRETS)
        with mortal(tmp_path, settings, port) as served:
            served.run("migrate")
            key = served.key()
            with load(port, key, chat("pg"), callers=16) as running:
                for _ in range(3):
                    served.start()
                    time.sleep(rng.uniform(0.5, 2.0))
                    kill(served)
                running.stop()
            served.start()
            sources = check_rows(served, running.outcomes, reached(provider))
            check_store(store, sum(row["cost_nano"] for row in served.rows()))
            assert served.stop() == 0
    assert list((tmp_path / "spool").iterdir()) == []
    print(f"{len(running.outcomes)} calls, {len(running.delivered())} delivered, rows {dict(sources)}")
