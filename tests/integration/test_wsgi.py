"""The gateway as a WSGI application under the servers people use: the same rows, refusals and streams as the proxy."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.support.gateway import Gateway
from tests.support.replies import chat_stream
from tests.support.sight import entries, entry_of, levels
from tests.support.upstream import SSE, Answer, Upstream, upstream
from tests.support.valkey import ValkeyServer
from tests.support.web_servers import WebServer, web_server

KINDS = ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent", "waitress", "werkzeug"]
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
COST = 1_000 * 5_000 + 100 * 15_000
REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


@dataclass(frozen=True)
class World:
    server: WebServer
    served: Gateway
    provider: Upstream
    store: ValkeyServer
    key: str
    poor: str
    prefix: str = ""

    def post(self, body: dict[str, Any], key: str | None = None, path: str = "/v1/chat/completions") -> httpx2.Response:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx2.post(self.server.url + self.prefix + path, json=body, headers=headers, timeout=20)

    def stream(self, body: dict[str, Any]) -> Any:
        headers = {"authorization": f"Bearer {self.key}"}
        url = self.server.url + self.prefix + "/v1/chat/completions"
        return httpx2.stream("POST", url, json=body | {"stream": True}, headers=headers, timeout=20)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, **more}


@pytest.fixture(scope="module", params=[*KINDS, "flask"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("wsgi")
    with upstream() as provider, ValkeyServer() as store:
        served = Gateway(home, config(provider, store))
        key, poor = served.key(), served.key(team="poor", feature="little")
        flask = request.param == "flask"
        kind, name = ("gunicorn-gthread", "flask") if flask else (request.param, "application")
        env = {"SERVED_CONFIG": str(served.path)}
        prefix = "/llm" if flask else ""
        with web_server(kind, f"tests.support.wsgi_served:{name}", home, probe=f"{prefix}/readyz", env=env) as server:
            yield World(server, served, provider, store, key, poor, prefix)


def config(provider: Upstream, store: ValkeyServer) -> dict[str, Any]:
    return {
        "store": store.tcp_url,
        "providers": {
            "local": {
                "dialect": "openai",
                "base_url": provider.origin,
                "keys": ["upstream-key"],
                "internal": True,
                "default": True,
            }
        },
        "prices": {"local/*": {"input": "$5/M", "output": "$15/M"}},
        "budgets": [
            {"name": "all", "scope": {"team": "*"}, "limit": "$100", "window": "total"},
            {"name": "poor", "scope": {"team": "poor", "feature": "little"}, "limit": "$0.0005", "window": "hour"},
        ],
    }


def test_a_call_is_answered_recorded_and_settled(world: World) -> None:
    world.provider.reply(json_body=REPLY)
    reply = world.post(chat())
    assert reply.status_code == 200, reply.text
    assert reply.json() == REPLY
    assert reply.headers["x-llmguard-cost-usd"] == "0.0065"
    assert reply.headers["x-llmguard-target"] == "local/m"
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["team"], entry["feature"], entry["status"]) == (COST, "search", "chat", 200)
    assert entry["usage_source"] == "provider"
    seen = world.provider.requests[-1]
    assert (seen.target, seen.header("authorization")) == ("/v1/chat/completions", "Bearer upstream-key")
    settled(world)


def settled(world: World) -> None:
    """The store has what the ledger has, and holds nothing."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        kept = levels(world.store, "usd|total")
        if not kept["held"] and kept["settled"] == sum(entry["cost_nano"] for entry in entries(world.served)):
            return
        time.sleep(0.05)
    raise AssertionError((dict(kept), sum(entry["cost_nano"] for entry in entries(world.served))))


def test_a_refusal_has_its_body_and_headers_and_reaches_nobody(world: World) -> None:
    before = len(world.provider.requests)
    reply = world.post(chat(max_tokens=100), key=world.poor)
    assert reply.status_code in (403, 429)
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["error"]["llmguard"]["scope"] == {"team": "poor", "feature": "little"}
    assert world.post(chat(), key="lg_prod_nobody").status_code == 401
    assert world.post(chat(), path="/v1/nowhere").status_code == 404
    assert len(world.provider.requests) == before


def test_bad_bodies_and_paths_are_refused(world: World) -> None:
    url, headers = world.server.url + world.prefix, {"authorization": f"Bearer {world.key}"}
    for content in (b"{", b'{"model": "m", "model": "n"}', b"\xff", b"[]"):
        reply = httpx2.post(f"{url}/v1/chat/completions", content=content, headers=headers)
        assert reply.status_code == 400, content
    reply = httpx2.post(f"{url}/v1/chat%2fcompletions", json=chat(), headers=headers)
    assert reply.status_code in (400, 404)
    reply = httpx2.post(f"{url}/v1/chat/completions?api_key=x", json=chat(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "key_in_query")


def test_a_large_body_passes_and_a_larger_one_is_refused(world: World) -> None:
    world.provider.reply(json_body=REPLY)
    reply = world.post(chat(messages=[{"role": "user", "content": "x" * 4_000_000}]))
    assert reply.status_code == 200, reply.text
    assert len(world.provider.requests[-1].body) > 4_000_000
    assert world.post(chat(messages=[{"role": "user", "content": "x" * 11_000_000}])).status_code == 413


def test_a_stream_arrives_while_it_is_written(world: World) -> None:
    events = chat_stream(4, USAGE)
    world.provider.queue(Answer(200, [("content-type", SSE)], events, "chunked", gap=0.2))
    began = time.monotonic()
    with world.stream(chat(stream_options={"include_usage": True})) as reply:
        pieces = reply.iter_raw()
        first = next(pieces)
        first_at = time.monotonic() - began
        rest = b"".join(pieces)
    total = time.monotonic() - began
    assert first + rest == b"".join(events)
    assert first_at < 0.6 < 1.0 < total
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["stream"], entry["interrupted"]) == (COST, True, None)


@pytest.mark.parametrize("said", [0, 2], ids=["before the head", "mid-stream"])
def test_a_caller_who_leaves_while_the_provider_is_silent(world: World, said: int) -> None:
    events = chat_stream(4, USAGE)
    sent = sum(map(len, events[:said]))
    world.provider.queue(Answer(200, [("content-type", SSE)], events, "chunked", fault="hang", after=sent or None))
    known = {entry["event_id"] for entry in entries(world.served)}
    calls = len(world.provider.requests)
    with socket.create_connection(("127.0.0.1", int(world.server.url.rpartition(":")[2])), 10) as line:
        line.sendall(request_of(world, chat(stream=True)))
        heard = b""
        while events[0] not in heard and said:
            heard += line.recv(65536)
        world.provider.wait_for(lambda u: len(u.requests) > calls)
    left = time.monotonic()
    number = world.provider.requests[-1].connection
    world.provider.wait_for(lambda u: number not in u.alive, 2)
    assert time.monotonic() - left < 1.0
    entry = next(entry for entry in wait_for_new(world, known))
    assert entry["interrupted"] == "caller_gone"
    assert 0 < entry["cost_nano"] <= entry["cap_nano"]
    settled(world)


def request_of(world: World, body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST {world.prefix}/v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {world.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def wait_for_new(world: World, known: set[str]) -> list[dict[str, Any]]:
    """The entries that came since."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if new := [entry for entry in entries(world.served) if entry["event_id"] not in known]:
            return new
        time.sleep(0.05)
    raise AssertionError("no new entry")
