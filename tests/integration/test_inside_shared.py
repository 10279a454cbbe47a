"""A worker that calls the provider itself and an application that goes through the gateway share one budget, one quota
store and one ledger; and calls to our own gateway are signed, not guarded twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import llmguard
from llmguard.core.signed import HEADER, HTTP
from llmguard.guard import Guard
from llmguard.integrations.httpx import async_http_client, http_client
from llmguard.runtime.ids import now_ms
from tests.support.gateway import Gateway, gateway
from tests.support.inside import configuration, inside, sandbox
from tests.support.upstream import Upstream, upstream
from tests.support.valkey import ValkeyServer

HELLO: Any = [{"role": "user", "content": "Hello"}]
CENT = {"name": "a-cent", "scope": {"team": "*"}, "limit": "$0.01", "window": "day"}
TENTH = "usage-10-990"
"""A call that uses a tenth of the budget, and may not use more."""


@dataclass(frozen=True)
class World:
    """The gateway, a guard with the same configuration in this process, and the provider behind both."""

    served: Gateway
    guard: Guard
    provider: Upstream

    def inside(self, team: str, **body: Any) -> httpx2.Response:
        with http_client(guard=self.guard, team=team, env="prod", feature="chat") as client:
            return client.post(f"{self.provider.origin}/v1/chat/completions", json=_body(body))

    def outside(self, key: str, **body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.post(f"{self.served.url}/v1/chat/completions", json=_body(body), headers=headers, timeout=30)


def _body(changes: dict[str, Any]) -> dict[str, Any]:
    return {"model": TENTH, "messages": HELLO, "max_tokens": 990} | changes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("shared")
    with ValkeyServer(maxmemory_policy="noeviction") as valkey, upstream() as provider:
        provider.reply(sandbox())
        config = configuration(home, provider.origin, budgets=[CENT], store=valkey.tcp_url)
        for one in config["providers"].values():
            one["default"] = True
        with gateway(home, config) as served:
            guard = Guard(str(served.path))
            try:
                yield World(served, guard, provider)
            finally:
                guard.close()


def test_what_either_spends_is_missing_to_the_other(world: World) -> None:
    key = world.served.key("growth")
    answers = [(world.inside("growth") if turn % 2 else world.outside(key)).status_code for turn in range(14)]
    assert answers[:9] == [200] * 9
    assert set(answers[10:]) == {429}
    paid = answers.count(200)
    rows = world.served.wait_for_rows(paid, team="growth")
    assert sum(row["cost_nano"] for row in rows) == paid * 1_000_000 <= 11_000_000
    assert {row["key_id"] is None for row in rows} == {True, False}
    refused = {who.status_code for who in (world.inside("growth"), world.outside(key))}
    assert refused == {429}


def test_many_at_once_from_both_sides_never_pass_the_bound(world: World) -> None:
    key = world.served.key("crowd")
    before = len(world.provider.requests)

    async def ask() -> list[int]:
        async with async_http_client(guard=world.guard, team="crowd", env="prod", feature="chat") as client:
            url = f"{world.provider.origin}/v1/chat/completions"
            return [reply.status_code for reply in await asyncio.gather(*(_post(client, url) for _ in range(10)))]

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(world.inside, "crowd") for _ in range(10)]
        others += [pool.submit(world.outside, key) for _ in range(10)]
        statuses = [*asyncio.run(ask()), *(other.result().status_code for other in others)]
    paid = statuses.count(200)
    assert len(world.provider.requests) - before == paid
    assert 9 <= paid <= 11
    rows = world.served.wait_for_rows(paid, team="crowd")
    assert sum(row["cost_nano"] for row in rows) <= 11_000_000


async def _post(client: Any, url: str) -> Any:
    return await client.post(url, json=_body({}), timeout=30)


def test_a_call_to_our_own_gateway_is_signed_with_who_calls_and_guarded_there_alone(tmp_path: Path) -> None:
    with inside(tmp_path) as world, upstream() as proxy:
        proxy.reply(headers={"x-llmguard-request-id": "r", "x-llmguard-target": "local/m"}, json_body={"choices": []})
        guard = Guard(configuration(tmp_path, world.provider.origin, gateway=proxy.origin))
        with llmguard.context(team="search", feature="chat", end_user="kim"), http_client(guard=guard) as client:
            oai = openai.OpenAI(base_url=f"{proxy.origin}/v1", api_key="lg_key", http_client=client)
            oai.chat.completions.create(model="m", messages=HELLO)
            (seen,) = proxy.requests
            signed = guard.signer().read(seen.header(HEADER) or "", HTTP, now_ms())
            guard.close()
        assert not isinstance(signed, str)
        assert (signed.team, signed.feature, signed.end_user, signed.env) == ("search", "chat", "kim", None)
        assert seen.header("accept-encoding") != "identity"
        assert world.provider.requests == []
        world.rows(0)


def test_a_moments_patience_that_the_gateway_asks_for_is_waited_out(tmp_path: Path) -> None:
    busy = {"error": {"code": "rate_limited", "message": "slow down", "llmguard": {}}}
    with inside(tmp_path) as world, upstream() as proxy:
        proxy.queue(status=429, headers={"x-llmguard-request-id": "r", "retry-after": "1"}, json_body=busy)
        proxy.reply(json_body={"choices": []})
        guard = Guard(configuration(tmp_path, world.provider.origin, gateway=proxy.origin))
        with http_client(guard=guard) as client:
            assert client.post(f"{proxy.origin}/v1/chat/completions", json=_body({})).status_code == 200
        guard.close()
        assert [seen.json() for seen in proxy.requests] == [_body({})] * 2


def test_a_rate_limit_inside_is_waited_out_and_one_that_lasts_is_heard(tmp_path: Path) -> None:
    limits = [
        {"name": "brisk", "scope": {"team": "brisk"}, "limit": "1/second"},
        {"name": "slow", "scope": {"team": "slow"}, "limit": "1/minute"},
    ]
    with inside(tmp_path, limits=limits) as world:
        url = f"{world.provider.origin}/v1/chat/completions"
        with http_client(guard=world.guard, team="brisk", feature="f") as client:
            assert [client.post(url, json=_body({}), timeout=30).status_code for _ in range(3)] == [200] * 3
        with http_client(guard=world.guard, team="slow", feature="f") as client:
            replies = [client.post(url, json=_body({})) for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 429]
        assert 55 <= int(replies[1].headers["retry-after"]) <= 60
        world.rows(4)
