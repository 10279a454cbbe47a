"""Kept replies through running gateways: one call to the provider, equal answers, nothing charged to others."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.gateway import Gateway
from tests.support.replies import chat_stream, claude_stream, google_stream
from tests.support.sight import check_store, entries, entry_of
from tests.support.upstream import SSE, Answer, Seen, Upstream, answer, upstream
from tests.support.valkey import ValkeyServer

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
COST = 1_000 * 5_000 + 100 * 15_000


@dataclass(frozen=True)
class World:
    """Four gateways before one provider and one store."""

    gateways: list[Gateway]
    provider: Upstream
    store: ValkeyServer
    keys: dict[str, str]

    def post(self, path: str, body: Any, team: str = "search", at: int = 0, **headers: str) -> httpx2.Response:
        auth = {"authorization": f"Bearer {self.keys[team]}"}
        url = self.gateways[at].url + path
        return httpx2.post(
            url, json=body, headers=auth | {k.replace("_", "-"): v for k, v in headers.items()}, timeout=30
        )

    def calls(self) -> int:
        return len(self.provider.requests)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("cache")
    with upstream() as provider, ValkeyServer() as store, ExitStack() as stack:
        common = {"base_url": provider.origin, "keys": ["k"], "internal": True, "default": True}
        config = {
            "store": store.tcp_url,
            "ledger": f"sqlite:///{home / 'ledger.db'}",
            "spool": {"path": str(home / "spool")},
            "providers": {
                "local": {"dialect": "openai", **common},
                "claude": {"dialect": "anthropic", **common},
                "google": {"dialect": "gemini", **common},
            },
            "prices": {
                f"{name}/*": {"input": "$5/M", "output": "$15/M", "output_max": 8_192}
                for name in ("local", "claude", "google")
            },
            "budgets": [{"name": "all", "scope": {"team": "*"}, "limit": "$1000", "window": "total"}],
            "limits": [{"name": "slow", "scope": {"team": "slow"}, "limit": "2/hour"}],
            "cache": {"exact": {"ttl": "1h"}},
        }
        served = [_served(home / f"g{number}", config, stack) for number in range(4)]
        keys = {team: served[0].key(team=team) for team in ("search", "ads", "slow")}
        yield World(served, provider, store, keys)


def _served(home: Path, config: dict[str, Any], stack: ExitStack) -> Gateway:
    home.mkdir()
    served = Gateway(home, config)
    served.start()
    stack.callback(served.stop)
    return served


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}


def reply(text: str = "hello") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    document = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "choices": [choice],
        "usage": USAGE,
    }
    return answer(json_body=document)


GEMINI_USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
WHOLE: dict[str, tuple[str, Any, Any]] = {
    "openai_chat": ("/v1/chat/completions", chat("whole"), json.loads(reply().pieces[0])),
    "openai_responses": (
        "/v1/responses",
        {"model": "m", "input": "whole", "store": False},
        {
            "id": "r",
            "object": "response",
            "status": "completed",
            "model": "m",
            "output": [],
            "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        },
    ),
    "openai_embeddings": (
        "/v1/embeddings",
        {"model": "m", "input": "whole"},
        {"object": "list", "data": [], "model": "m", "usage": {"prompt_tokens": 10, "total_tokens": 10}},
    ),
    "anthropic_messages": (
        "/v1/messages",
        chat("whole", max_tokens=50),
        {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 10, "output_tokens": 5},
        },
    ),
    "gemini_generate": (
        "/v1beta/models/m:generateContent",
        {"contents": [{"parts": [{"text": "whole"}]}]},
        {"candidates": [], "usageMetadata": GEMINI_USAGE, "modelVersion": "m"},
    ),
}


@pytest.mark.parametrize("dialect", WHOLE)
def test_the_same_call_twice_is_one_call_to_the_provider(world: World, dialect: str) -> None:
    path, body, document = WHOLE[dialect]
    world.provider.reply(json_body=document)
    before = world.calls()
    first = world.post(path, body)
    assert (first.status_code, first.headers["x-llmguard-cache"]) == (200, "miss"), first.text
    second = _until_hit(world, path, body)
    assert world.calls() == before + 1
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-llmguard-cost-usd"] == "0"
    paid = entry_of(world.gateways[0], event_id=first.headers["x-llmguard-request-id"])
    free = entry_of(world.gateways[0], event_id=second.headers["x-llmguard-request-id"])
    assert (paid["cache"], free["cache"]) == ("miss", "hit")
    assert paid["cost_nano"] > 0
    assert (free["cost_nano"], free["saved_nano"]) == (0, paid["cost_nano"])
    assert (free["model_served"], free["finish_reason"]) == (paid["model_served"], paid["finish_reason"])


def _until_hit(world: World, path: str, body: Any, at: int = 0) -> httpx2.Response:
    """The reply once it is kept, which happens just after the first was sent."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = world.post(path, body, at=at)
        if found.headers["x-llmguard-cache"].startswith("hit"):
            return found
    raise AssertionError("never kept")


STREAMS: dict[str, tuple[str, Any, list[bytes]]] = {
    "openai_chat": (
        "/v1/chat/completions",
        chat("streamed", stream=True, stream_options={"include_usage": True}),
        chat_stream(5, USAGE),
    ),
    "openai_chat without usage": ("/v1/chat/completions", chat("plain", stream=True), chat_stream(5, USAGE)),
    "anthropic_messages": ("/v1/messages", chat("streamed", max_tokens=50, stream=True), claude_stream(5)),
    "gemini_generate": (
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {"contents": [{"parts": [{"text": "streamed"}]}]},
        google_stream(5),
    ),
}


@pytest.mark.parametrize("dialect", STREAMS)
def test_a_stream_is_kept_and_streamed_again(world: World, dialect: str) -> None:
    path, body, events = STREAMS[dialect]
    world.provider.reply(Answer(200, [("content-type", SSE)], events, "chunked"))
    before = world.calls()
    first = world.post(path, body)
    assert first.headers["x-llmguard-cache"] == "miss"
    second = _until_hit(world, path, body, at=1)
    assert world.calls() == before + 1
    assert second.content == first.content
    assert second.headers["content-type"] == SSE
    entry = entry_of(world.gateways[0], event_id=second.headers["x-llmguard-request-id"])
    paid = entry_of(world.gateways[0], event_id=first.headers["x-llmguard-request-id"])
    assert (entry["stream"], entry["cost_nano"], entry["saved_nano"]) == (True, 0, paid["cost_nano"])


def test_a_hundred_identical_calls_at_once_over_four_processes_are_one(world: World) -> None:
    for at in range(4):
        world.post("/v1/chat/completions", chat("warm"), at=at)  # connected, and the scripts known
    world.provider.reply(answer(json_body=json.loads(reply("together").pieces[0]), delay=0.5))
    before = world.calls()
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda n: world.post("/v1/chat/completions", chat("together"), at=n % 4), range(100)))
    assert world.calls() == before + 1
    assert {one.status_code for one in found} == {200}
    assert len({one.content for one in found}) == 1
    states = [one.headers["x-llmguard-cache"].partition(";")[0] for one in found]
    assert (states.count("miss"), states.count("hit")) == (1, 99)


def test_a_call_whose_leader_failed_goes_itself(world: World) -> None:
    world.provider.reply(reply("second try"))
    world.provider.queue(answer(status=500, json_body={"error": {"message": "no"}}, delay=0.3))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda n: world.post("/v1/chat/completions", chat("leader"), at=n), range(2)))
    assert sorted(one.status_code for one in found) == [200, 500]


def test_nothing_crosses_teams(world: World) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)

    def echo(seen: Seen) -> Answer:
        return reply(f"{seen.json()['messages'][0]['content']} for request {len(world.provider.requests)}")

    world.provider.reply(echo)
    told: dict[tuple[str, str], bytes] = {}
    for _ in range(500):
        team, prompt = dice.choice(["search", "ads"]), f"pair {dice.randrange(60)}"
        found = world.post("/v1/chat/completions", chat(prompt), team, at=dice.randrange(4)).content
        other = told.get(("ads" if team == "search" else "search", prompt))
        assert found != other
        told[team, prompt] = found


def test_errors_cut_streams_and_calls_with_state_are_not_kept(world: World) -> None:
    before = world.calls()
    world.provider.reply(answer(status=400, json_body={"error": {"message": "no"}}))
    for _ in range(2):
        assert world.post("/v1/chat/completions", chat("bad")).status_code == 400
    events = chat_stream(5, USAGE)
    world.provider.reply(Answer(200, [("content-type", SSE)], events, "chunked", fault="close", after=200))
    for _ in range(2):
        with pytest.raises(httpx2.TransportError):
            world.post("/v1/chat/completions", chat("torn", stream=True))
    world.provider.reply(json_body=WHOLE["openai_responses"][2])
    for _ in range(2):
        found = world.post("/v1/responses", {"model": "m", "input": "kept there"})
        assert found.headers["x-llmguard-cache"] == "bypass"
    assert world.calls() == before + 6


def test_a_caller_chooses(world: World) -> None:
    path, body = "/v1/chat/completions", chat("chosen")
    world.provider.reply(reply())
    before = world.calls()
    assert world.post(path, body, cache_control="no-store").headers["x-llmguard-cache"] == "bypass"
    world.post(path, body)
    _until_hit(world, path, body)
    assert world.calls() == before + 2
    assert world.post(path, body, cache_control="no-cache").headers["x-llmguard-cache"] == "miss"
    assert world.post(path, body, cache_control="max-age=0").headers["x-llmguard-cache"] in ("miss", "hit; age=0")
    time.sleep(1.1)
    calls = world.calls()
    assert world.post(path, body, cache_control="max-age=1").headers["x-llmguard-cache"] == "miss"
    assert world.calls() == calls + 1


def test_a_hit_is_refused_for_its_rate_but_not_for_money(world: World) -> None:
    path, body = "/v1/chat/completions", chat("slowly")
    world.provider.reply(reply())
    world.post(path, body, "slow")
    time.sleep(0.2)
    assert world.post(path, body, "slow").headers["x-llmguard-cache"].startswith("hit")
    refused = world.post(path, body, "slow")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")


def test_stats_and_purge(world: World) -> None:
    path, body = "/v1/chat/completions", chat("purged")
    world.provider.reply(reply())
    world.post(path, body)
    _until_hit(world, path, body)
    shown = json.loads(world.gateways[0].run("cache", "stats", "--json").stdout)
    assert shown["entries"] > 0
    assert 0 < shown["bytes"] <= shown["max_bytes"]
    assert json.loads(world.gateways[0].run("cache", "purge", "--team", "nobody", "--json").stdout) == {"dropped": 0}
    assert json.loads(world.gateways[0].run("cache", "purge", "--json").stdout)["dropped"] == shown["entries"]
    assert world.post(path, body).headers["x-llmguard-cache"] == "miss"


def test_the_books_are_right_and_nothing_is_held(world: World) -> None:
    while any(served.metric("llmguard_spool_records_unshipped") for served in world.gateways):
        time.sleep(0.05)
    check_store(world.store, sum(entry["cost_nano"] for entry in entries(world.gateways[0])))


def test_damage_in_the_store_is_a_miss(world: World) -> None:
    path, body = "/v1/chat/completions", chat("damaged")
    world.provider.reply(reply())
    world.post(path, body)
    _until_hit(world, path, body)
    with world.store.client() as client:
        for key in client.scan_iter(match="*:c:*"):
            client.set(key, client.get(key)[:-3] + b"xyz")
    calls = world.calls()
    assert world.post(path, body).status_code == 200
    assert world.calls() == calls + 1


def test_nobody_waits_for_a_reply_that_a_full_store_did_not_take(world: World) -> None:
    path, body = "/v1/chat/completions", chat("no room")
    world.provider.reply(reply())
    with world.store.client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            begun = time.monotonic()
            states = [world.post(path, body, at=at).headers["x-llmguard-cache"] for at in (0, 1, 2)]
            took = time.monotonic() - begun
        finally:
            client.config_set("maxmemory", "0")
    assert states == ["miss"] * 3
    assert took < 10  # and not half a minute for each
