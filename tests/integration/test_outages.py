"""What is away and comes back, or not: the quota store, a provider, a key."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import pytest

from llmguard.guard import Guard
from tests.support.gateway import Gateway, free_port, gateway
from tests.support.load import BROKEN, CHAT, Body, Line, Outcome, chat_stream, metered, steady_port
from tests.support.sight import check_store, entries, entry_of, levels
from tests.support.upstream import SSE, Answer, Upstream, upstream
from tests.support.valkey import ValkeyServer

PRICE = {"input": "$5/M", "output": "$15/M", "output_max": 4_096}
SECRETS = {"pepper": token_hex(32), "signing": [token_hex(32)], "cache": [token_hex(32)]}
DECIDED = 0.5
"""Seconds in which a call is decided when the quota store is away."""
CAUGHT_UP = 60.0
"""Seconds after which a store that was away has the ledger's sums again."""
COLD = 20.0
"""Seconds that a store which forgot everything stays closed after it was loaded, so that live calls can be entered."""


def chat(user: str, *, model: str = "gpt-4o", **more: Any) -> Body:
    messages = [{"role": "user", "content": "Say something that takes a while, please."}]
    return {"model": model, "messages": messages, "user": user, "max_tokens": 100} | more


@dataclass(frozen=True)
class World:
    """A gateway with a quota store that can be frozen, killed and emptied, and providers that are up, down and mute."""

    served: Gateway
    provider: Upstream
    store: ValkeyServer
    key: Callable[..., str]

    def post(self, body: Body, *, key: str | None = None, path: str = CHAT) -> httpx2.Response:
        """One call, by a team of its own unless a key is given."""
        headers = {"authorization": f"Bearer {key or self.key()}"}
        return httpx2.post(self.served.url + path, json=body, headers=headers, timeout=30)

    def check_all_settled(self, timeout: float) -> None:
        """The store has the ledger's sums and holds nothing."""
        while self.served.metric("llmguard_spool_records_unshipped"):
            time.sleep(0.05)
        check_store(self.store, sum(entry["cost_nano"] for entry in entries(self.served)), timeout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with upstream() as provider, ValkeyServer() as store:
        here = {"base_url": provider.origin, "keys": ["k"], "internal": True}
        nobody = {"base_url": f"http://127.0.0.1:{free_port()}", "keys": ["k"], "internal": True}
        providers: dict[str, Any] = {
            "local": {"dialect": "openai", "default": True, **here},
            "mute": {"dialect": "openai", "timeouts": {"first_byte": "1s"}, **here},
            "down": {"dialect": "openai", **nobody},
            "claude": {"dialect": "anthropic", **nobody},
            "google": {"dialect": "gemini", **nobody},
        }
        everybody = {"scope": {"team": "*"}, "when_store_down": "deny"}
        config = {
            "providers": providers,
            "prices": {f"{name}/*": PRICE for name in providers},
            "budgets": [{"name": "team", "limit": "$10", "window": "total"} | everybody],
            "limits": [{"name": "live", "limit": "500 concurrent"} | everybody],
            "store": store.tcp_url,
        }
        with gateway(tmp_path_factory.mktemp("outages"), config, port=steady_port()) as served:
            ledger = Guard(str(served.path)).ledger()

            def key(team: str = "search", **options: Any) -> str:
                return ledger.keys.create(team, "prod", "chat", **options)[1]

            yield World(served, provider, store, key)
            ledger.close()


# ---------------------------------------------------------------------- the quota store


async def gather(world: World, key: str, bodies: list[Body]) -> list[tuple[float, Outcome]]:
    """Calls at once, each on a connection of its own: how long each took, and its outcome."""

    async def one(body: Body) -> tuple[float, Outcome]:
        began = time.monotonic()
        with closing(Line(world.served.port, key)) as line:
            outcome = await line.call(body)
        return time.monotonic() - began, outcome

    return await asyncio.gather(*(one(body) for body in bodies))


def refused_quickly(world: World, key: str, name: str) -> float:
    """Calls in turn and at once hear that the quota store is away, in time; the longest decision."""
    before = len(world.provider.requests)

    async def run() -> list[tuple[float, Outcome]]:
        found = []
        for number in range(5):
            found += await gather(world, key, [chat(f"{name}-away-{number}")])
        return found + await gather(world, key, [chat(f"{name}-away-{n}") for n in range(5, 25)])

    found = asyncio.run(run())
    for _, outcome in found:
        assert outcome.status == 503
        assert json.loads(outcome.body)["error"]["code"] == "quota_unavailable"
        assert outcome.headers["retry-after"] == "5"
    assert len(world.provider.requests) == before
    slowest = max(took for took, _ in found)
    assert slowest < DECIDED
    return slowest


@contextmanager
def running_calls(world: World, key: str, name: str) -> Iterator[list[Outcome]]:
    """Five whole calls of three seconds and five streams that take as long; the block begins when all run."""
    world.provider.reply(metered(delay=3.0, gap=0.35))
    before = len(world.provider.requests)
    bodies = [chat(f"{name}-{n}") | ({"stream": True} if n % 2 else {}) for n in range(10)]
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.extend([outcome for _, outcome in await gather(world, key, bodies)])

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asyncio.run, run())
        world.provider.wait_for(lambda u: len(u.requests) == before + 10)
        yield outcomes
        future.result(30)


def test_a_frozen_store_refuses_new_calls_in_time_and_lets_running_ones_end(world: World) -> None:
    key = world.key()
    with running_calls(world, key, "frozen") as outcomes:
        world.store.freeze()
        try:
            slowest = refused_quickly(world, key, "frozen")
            deadline = time.monotonic() + 15
            while len(outcomes) < 10 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert [outcome.delivered for outcome in outcomes] == [True] * 10
            assert httpx2.get(f"{world.served.url}/readyz").status_code == 503
        finally:
            world.store.thaw()
    began = time.monotonic()
    world.check_all_settled(CAUGHT_UP)
    caught_up = time.monotonic() - began
    unsure = [entry for entry in entries(world.served) if entry["usage_source"] != "provider"]
    assert not unsure
    wait_until_ready(world.served)
    world.provider.reply(metered(delay=0))
    assert world.post(chat("after-0"), key=key).status_code == 200
    print(f"slowest refusal {slowest * 1000:.0f} ms; sums equal {caught_up:.1f} s after the store came back")


def wait_until_ready(served: Gateway, timeout: float = 30.0) -> float:
    """Until `/readyz` says 200; how long that took."""
    began = time.monotonic()
    while httpx2.get(f"{served.url}/readyz", timeout=5).status_code != 200:
        assert time.monotonic() - began < timeout, served.log.read_text()[-2000:]
        time.sleep(0.05)
    return time.monotonic() - began


def wait_until_open(world: World, key: str, timeout: float) -> float:
    """Until calls are admitted again; how long that took."""
    began = time.monotonic()
    world.provider.reply(metered(delay=0))
    while (reply := world.post(chat("open-0"), key=key)).status_code == 503:
        assert reply.json()["error"]["code"] == "quota_unavailable"
        assert time.monotonic() - began < timeout
        time.sleep(0.25)
    assert reply.status_code == 200
    return time.monotonic() - began


@pytest.mark.slow
def test_a_store_that_died_is_loaded_from_the_ledger_when_it_is_back(world: World) -> None:
    key = world.key("gone")
    with running_calls(world, key, "gone") as outcomes:
        world.store.kill()
        slowest = refused_quickly(world, key, "gone")
    assert [outcome.delivered for outcome in outcomes] == [True] * 10
    world.store.start()
    opened = wait_until_open(world, key, COLD + 10)
    world.check_all_settled(CAUGHT_UP)
    print(f"slowest refusal {slowest * 1000:.0f} ms; open {opened:.1f} s after the store came back")


@pytest.mark.slow
def test_an_emptied_store_gets_back_its_sums_and_the_calls_that_run(world: World) -> None:
    """One stream runs from before the loss to long after it; the team has spent all but a little of its budget."""
    key = world.key("flushed")
    spend = {"prompt_tokens": 1_998_000, "completion_tokens": 0}
    world.provider.reply(json_body={"choices": [], "usage": spend})
    assert world.post(chat("flushed-0"), key=key).status_code == 200
    world.provider.reply(Answer(headers=[("content-type", SSE)], pieces=chat_stream(120), framing="chunked", gap=0.4))

    async def run() -> dict[str, Any]:
        with closing(Line(world.served.port, key)) as line:
            await line.send(chat("live-0", stream=True, max_tokens=400))
            await line.head()
            reading = asyncio.create_task(read_all(line))
            await asyncio.to_thread(held, world, lambda kept: kept["held"] > 0, 5)
            with world.store.client() as client:
                client.flushall()
            opened = await asyncio.to_thread(wait_until_open, world, world.key("other"), COLD + 10)
            await asyncio.to_thread(held, world, lambda kept: kept["held"] > 0, 5)
            late = await asyncio.to_thread(world.post, chat("late-0", max_tokens=4_000), key=key)
            assert not reading.done()
            reading.cancel()
        return {"opened": opened, "late": late}

    found = asyncio.run(run())
    said = found["late"].json()["error"]
    assert (found["late"].status_code, said["code"]) == (429, "budget_insufficient")
    assert said["llmguard"]["spent"] == "9.99"
    assert said["llmguard"]["held"] != "0"
    assert entry_of(world.served, end_user="live-0")["usage_source"] == "estimated"
    world.check_all_settled(CAUGHT_UP)
    print(f"open {found['opened']:.1f} s after the loss")


async def read_all(line: Line) -> None:
    try:
        while await line.chunk():
            pass
    except BROKEN:
        pass


def held(world: World, good: Callable[[Counter[str]], bool], timeout: float) -> Counter[str]:
    """The store's sums, once they are as wanted."""
    deadline = time.monotonic() + timeout
    while not good(kept := levels(world.store, "usd|total")):
        assert time.monotonic() < deadline, kept
        time.sleep(0.05)
    return kept


# ---------------------------------------------------------------------- a provider

DOWN: dict[str, tuple[str, Body, Callable[[Any], Any]]] = {
    "openai": (CHAT, chat("down-0", model="down/m"), lambda doc: doc["error"]["code"]),
    "anthropic": (
        "/v1/messages",
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
        lambda doc: doc["type"] == "error" and doc["error"]["details"]["error_code"],
    ),
    "gemini": (
        "/v1beta/models/m:generateContent",
        {"contents": [{"parts": [{"text": "Hi"}]}]},
        lambda doc: doc["error"]["details"][0]["reason"].lower(),
    ),
}


@pytest.mark.parametrize("family", DOWN)
def test_a_provider_that_is_down_costs_nothing(world: World, family: str) -> None:
    path, body, code = DOWN[family]
    world.check_all_settled(CAUGHT_UP)
    before = len(entries(world.served))
    reply = world.post(body, path=path)
    assert (reply.status_code, code(reply.json())) == (502, "upstream_unreachable")
    world.check_all_settled(CAUGHT_UP)
    assert len(entries(world.served)) == before


def test_a_provider_that_does_not_answer_is_given_up_and_charged_by_estimate(world: World) -> None:
    world.provider.reply(Answer(fault="hang"))
    began = time.monotonic()
    reply = world.post(chat("mute-0", model="mute/m"))
    took = time.monotonic() - began
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert 1.0 <= took < 4.0
    row = entry_of(world.served, end_user="mute-0")
    assert (row["usage_source"], row["interrupted"]) == ("estimated", "upstream_failed")
    assert 0 < row["cost_nano"] <= row["cap_nano"]
    world.check_all_settled(CAUGHT_UP)


# ---------------------------------------------------------------------- a key


def test_wrong_and_expired_keys_are_refused(world: World) -> None:
    world.provider.reply(metered(delay=0))
    short = world.key(expires_at=time.time_ns() // 1_000_000 + 1_500)
    assert world.post(chat("short-0"), key=short).status_code == 200
    time.sleep(1.6)
    good = world.key()
    for key, words in {
        short: "expired",
        good[:-1] + ("a" if good[-1] != "a" else "b"): "not known",
        "sk-" + "x" * 40: "not known",
        "lg_prod_x_y": "not known",
    }.items():
        reply = world.post(chat("bad-0"), key=key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert words in reply.json()["error"]["message"]
    bare = httpx2.post(world.served.url + CHAT, json=chat("bad-1"))
    assert bare.status_code == 401


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(tmp_path: Path) -> None:
    port = steady_port()
    with upstream() as provider, ValkeyServer() as store:
        provider.reply(metered(delay=0))
        config = {
            "providers": {"local": {"dialect": "openai", "base_url": provider.url, "keys": ["k"], "internal": True}},
            "prices": {"local/*": PRICE},
            "store": store.tcp_url,
            "server": {"host": "127.0.0.1", "port": port, "workers": 2},
        }
        with gateway(tmp_path, config, port=port) as served:
            ledger = Guard(str(served.path)).ledger()
            known, text = ledger.keys.create("search", "prod", "chat")

            def statuses() -> set[int]:
                """Of twenty calls on connections of their own, which both workers take."""
                calls = [httpx2.post(served.url + CHAT, json=chat("k-0"), headers=bearer(text)) for _ in range(20)]
                return {reply.status_code for reply in calls}

            assert statuses() == {200}
            ledger.keys.revoke(known.id)
            time.sleep(1.0)
            assert statuses() == {401}
            ledger.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
