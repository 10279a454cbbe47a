"""The guard in ASGI applications, over sockets: mounted, and as layers in several orders with middleware of others in
between. Everywhere the same rows, refusals and streams, and nothing left open."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest

from tests.support.gateway import Gateway
from tests.support.replies import COST, REPLY, USAGE, chat_stream
from tests.support.sight import entries, entry_of, levels
from tests.support.upstream import SSE, Answer, Upstream, upstream
from tests.support.valkey import ValkeyServer
from tests.support.web_servers import WebServer, web_server

MOUNTED = ["/fastapi/llm", "/a", "/deep/b%20%C3%A9", "/host/llm", "/around"]
LAYERED = ["/order1", "/order2", "/order3", "/host"]
NO_CACHE = {"cache-control": "no-store"}


@dataclass(frozen=True)
class World:
    server: WebServer
    served: Gateway
    provider: Upstream
    store: ValkeyServer
    keys: dict[str, str]
    door: str = ""

    def post(self, body: Any, key: str | None = "good", path: str = "/v1/chat/completions", **more: Any) -> Any:
        headers = NO_CACHE | more.pop("headers", {})
        if key:
            headers["authorization"] = f"Bearer {self.keys.get(key, key)}"
        return httpx2.post(self.server.url + self.door + path, json=body, headers=headers, timeout=20, **more)

    def stream(self, body: dict[str, Any], headers: dict[str, str] = NO_CACHE) -> Any:
        headers = headers | {"authorization": f"Bearer {self.keys['good']}"}
        url = self.server.url + self.door + "/v1/chat/completions"
        return httpx2.stream("POST", url, json=body | {"stream": True}, headers=headers, timeout=20)

    def sent(self, body: dict[str, Any]) -> bytes:
        """A request as it goes over the wire."""
        content = json.dumps(body).encode()
        head = (
            f"POST {self.door}/v1/chat/completions HTTP/1.1\r\nhost: test\r\ncache-control: no-store\r\n"
            f"authorization: Bearer {self.keys['good']}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, **more}


def config(provider: Upstream, store: ValkeyServer) -> dict[str, Any]:
    local = {"dialect": "openai", "base_url": provider.origin, "keys": ["upstream-key"], "internal": True}
    return {
        "store": store.tcp_url,
        "providers": {"local": local | {"default": True}},
        "cache": {"exact": {"ttl": "1h"}},
        "audit": {"payloads": "full"},
        "models": {"nice": "local/m"},
        "prices": {"local/*": {"input": "$5/M", "output": "$15/M"}},
        "budgets": [
            {"name": "all", "scope": {"team": "*"}, "limit": "$100", "window": "total"},
            {"name": "poor", "scope": {"team": "poor", "feature": "little"}, "limit": "$0.0005", "window": "hour"},
            {"name": "slim", "scope": {"team": "slim"}, "limit": "$0.15", "window": "hour"},
            {"name": "cut", "scope": {"team": "cut", "feature": "*"}, "limit": "$0.03", "window": "hour"},
        ],
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("asgi")
    with upstream() as provider, ValkeyServer() as store:
        served = Gateway(home, config(provider, store))
        keys = {"good": served.key(), "poor": served.key("poor", feature="little"), "slim": served.key("slim")}
        keys["cut"] = served.key("cut", feature="*")
        env = {"SERVED_CONFIG": str(served.path), "UPSTREAM": provider.origin}
        with web_server("uvicorn", "tests.support.asgi_served:doors", home, probe="/", env=env) as server:
            yield World(server, served, provider, store, keys)


@pytest.fixture
def world(running: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """A door, and afterwards nothing that is held, and the store in agreement with the ledger."""
    running.provider.reply(json_body=REPLY)
    yield replace(running, door=request.param)
    agree(running)


def agree(world: World) -> None:
    """The store has what the ledger has, and holds nothing."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        kept, written = (
            levels(world.store, "usd|total|0|team="),
            sum(entry["cost_nano"] for entry in entries(world.served)),
        )
        if (kept["settled"], kept["held"], kept["orphan"]) == (written, 0, 0):
            return
        time.sleep(0.05)
    raise AssertionError((dict(kept), written))


everywhere = pytest.mark.parametrize("world", [*MOUNTED, *LAYERED], indirect=True)
layered = pytest.mark.parametrize("world", LAYERED, indirect=True)


@everywhere
def test_a_call_is_answered_recorded_and_settled(world: World) -> None:
    reply = world.post(chat())
    assert reply.status_code == 200, reply.text
    assert reply.json() == REPLY
    assert reply.headers["x-llmguard-cost-usd"] == "0.0065"
    assert reply.headers["x-llmguard-target"] == "local/m"
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["team"], entry["feature"], entry["status"]) == (COST, "search", "chat", 200)
    assert (entry["usage_source"], entry["endpoint"]) == ("provider", "/v1/chat/completions")
    assert world.provider.requests[-1].target == "/v1/chat/completions"


@everywhere
def test_refusals_reach_nobody_and_leave_no_row(world: World) -> None:
    calls, rows = len(world.provider.requests), len(entries(world.served))
    refused = world.post(chat(max_tokens=100), key="poor")
    assert refused.status_code == 403
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["llmguard"]["scope"] == {"team": "poor", "feature": "little"}
    assert world.post(chat(), key="lg_prod_nobody").status_code == 401
    assert world.post(chat(), key=None).status_code == 401
    assert world.post(chat(), path="/v1/nowhere").json()["error"]["code"] == "unknown_route"
    assert world.post(chat(), path="/v1//chat/completions").status_code in (400, 404)
    assert world.post(chat(), path="/v1/chat/completions?api_key=x").json()["error"]["code"] == "key_in_query"
    assert world.post([]).status_code == 400
    assert (len(world.provider.requests), len(entries(world.served))) == (calls, rows)


@everywhere
def test_a_stream_arrives_while_it_is_written(world: World) -> None:
    events = chat_stream(3, USAGE)
    world.provider.queue(Answer(200, [("content-type", SSE)], events, "chunked", gap=0.15))
    began = time.monotonic()
    with world.stream(chat()) as reply:
        pieces = reply.iter_raw()
        first = next(pieces)
        first_at = time.monotonic() - began
        heard = first + b"".join(pieces)
    assert heard == b"".join([*events[:4], events[5]]), "the usage that the caller did not ask for is taken out again"
    assert first_at < 0.6 * (time.monotonic() - began)
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["stream"], entry["interrupted"]) == (COST, True, None)
    assert world.provider.requests[-1].json()["stream_options"] == {"include_usage": True}


PHASES = {
    "before the head": (Answer(200, [("content-type", "application/json")], [b"{}"], delay=30), False, b""),
    "slow whole reply": (
        Answer(200, [("content-type", "application/json")], [b"[", *[b"1,"] * 300, b"1]"], gap=0.1),
        False,
        b"",
    ),
    "silent in mid-stream": (
        Answer(200, [("content-type", SSE)], chat_stream(4), "chunked", fault="hang", after=300),
        True,
        b"wwwww0",
    ),
    "streaming": (Answer(200, [("content-type", SSE)], chat_stream(400), "chunked", gap=0.05), True, b"wwwww1"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("world", ["/a", *LAYERED], indirect=True)
def test_a_caller_who_hangs_up_frees_the_provider_and_is_charged(world: World, phase: str) -> None:
    reply, streams, wanted = PHASES[phase]
    errors = world.server.log.read_text().count("Traceback")
    world.provider.queue(reply)
    known = {entry["event_id"] for entry in entries(world.served)}
    calls = len(world.provider.requests)
    with socket.create_connection(("127.0.0.1", int(world.server.url.rpartition(":")[2])), 10) as line:
        line.sendall(world.sent(chat(stream=streams)))
        heard = b""
        while wanted not in heard:
            heard += line.recv(65536)
        world.provider.wait_for(lambda u: len(u.requests) > calls)
        if not wanted:
            time.sleep(0.15)  # into the midst of the reply
    left = time.monotonic()
    number = world.provider.requests[-1].connection
    world.provider.wait_for(lambda u: number not in u.alive, 2)
    assert time.monotonic() - left < 1.0
    (entry,) = wait_for_new(world, known)
    assert entry["interrupted"] == "caller_gone"
    assert 0 < entry["cost_nano"] <= entry["cap_nano"]
    assert world.server.log.read_text().count("Traceback") == errors, world.server.log.read_text()[-4000:]


def wait_for_new(world: World, known: set[str]) -> list[dict[str, Any]]:
    """The entries that came since."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if new := [entry for entry in entries(world.served) if entry["event_id"] not in known]:
            return new
        time.sleep(0.03)
    raise AssertionError("no new entry")


@layered
def test_an_error_of_the_provider_costs_nothing(world: World) -> None:
    world.provider.queue(status=429, json_body={"error": {"message": "slow down"}}, headers={"retry-after": "7"})
    reply = world.post(chat())
    assert (reply.status_code, reply.json(), reply.headers["retry-after"]) == (
        429,
        {"error": {"message": "slow down"}},
        "7",
    )
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["status"], entry["cost_nano"]) == (429, 0)


@layered
def test_an_application_that_fails_is_charged_by_estimate(world: World) -> None:
    known = {entry["event_id"] for entry in entries(world.served)}
    world.provider.queue(Answer(200, fault="reset", delay=0.01))
    assert world.post(chat()).status_code == 500
    (entry,) = wait_for_new(world, known)
    assert entry["interrupted"] == "upstream_failed"
    assert 0 < entry["cost_nano"] <= entry["cap_nano"]


@layered
def test_the_stages_edit_the_body_that_the_application_gets(world: World) -> None:
    reply = world.post({key: value for key, value in chat(model="nice").items() if key != "max_tokens"}, key="slim")
    assert reply.status_code == 200, reply.text
    seen = world.provider.requests[-1]
    assert seen.json()["model"] == "m"
    assert seen.json()["max_tokens"] == int(reply.headers["x-llmguard-max-tokens"])
    assert seen.header("content-length") == str(len(seen.body))


@layered
def test_a_large_reply_flows_on_and_is_metered(world: World) -> None:
    document = REPLY | {"padding": "x" * 700_000}
    world.provider.queue(json_body=document, cuts=[100_000])
    reply = world.post(chat())
    assert reply.json() == document
    assert "x-llmguard-cost-usd" not in reply.headers
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["usage_source"]) == (COST, "provider")


@layered
def test_a_stream_that_spends_what_is_left_is_cut(world: World) -> None:
    world.provider.queue(Answer(200, [("content-type", SSE)], chat_stream(2_000, length=30), "chunked", gap=0.001))
    headers = {"authorization": f"Bearer {world.keys['cut']}", "x-llmguard-feature": world.door[1:]}
    body = {**chat(stream=True), "max_tokens": None}
    url = world.server.url + world.door + "/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, headers=headers, timeout=20) as reply:
        heard = b"".join(reply.iter_raw())
    assert reply.status_code == 200, heard
    assert heard.rstrip().endswith(b"[DONE]")
    assert b"budget" in heard
    number = world.provider.requests[-1].connection
    world.provider.wait_for(lambda u: number not in u.alive, 2)
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["interrupted"], entry["usage_source"]) == ("budget_cut", "estimated")
    assert 0 < entry["cost_nano"] <= entry["cap_nano"] <= 33_000_000


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@everywhere
def test_a_call_that_was_answered_before_costs_nothing(world: World, streams: bool) -> None:
    body = chat(messages=[{"role": "user", "content": f"cached at {world.door}"}], stream=streams)
    if streams:
        world.provider.queue(Answer(200, [("content-type", SSE)], chat_stream(3, USAGE), "chunked"))
    calls, any_age = len(world.provider.requests), {"cache-control": "max-age=3600"}
    first, second = world.post(body, headers=any_age), world.post(body, headers=any_age)
    assert first.headers["x-llmguard-cache"] == "miss"
    assert second.headers["x-llmguard-cache"].startswith("hit")
    assert (second.status_code, second.content) == (200, first.content)
    assert len(world.provider.requests) == calls + 1
    entry = entry_of(world.served, event_id=second.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["saved_nano"], entry["team"]) == (0, COST, "search")


@pytest.mark.parametrize("world", ["/order1", "/order2"], indirect=True)
def test_other_middleware_sees_and_changes_what_it_always_does(world: World) -> None:
    """Compression, whether inside the layers or outside, hides nothing from the meter."""
    headers = {"accept-encoding": "gzip", "origin": "https://shop.example"}
    reply = world.post(chat(), headers=headers)
    assert (reply.headers["content-encoding"], reply.headers["x-traced"]) == ("gzip", "yes")
    assert reply.json() == REPLY
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["usage_source"]) == (COST, "provider")


@pytest.mark.parametrize("world", ["/quota"], indirect=True)
def test_quota_alone_reserves_and_settles_what_the_context_attributes(world: World) -> None:
    reply = world.post(chat(), key=None)
    assert reply.status_code == 200, reply.text
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["team"], entry["feature"], entry["key_id"]) == (COST, "search", "chat", None)
    assert entry["tree_id"] is not None


@pytest.mark.parametrize("world", ["/meter"], indirect=True)
def test_a_meter_alone_records_and_refuses_nothing(world: World) -> None:
    reply = world.post(chat(max_tokens=100_000_000), key=None)
    assert reply.status_code == 200, reply.text
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["team"]) == (COST, "search")


@pytest.mark.parametrize("world", ["/authn"], indirect=True)
def test_authn_alone_checks_keys_and_records_nothing(world: World) -> None:
    rows = len(entries(world.served))
    assert world.post(chat(), key="lg_prod_nobody").status_code == 401
    reply = world.post(chat())
    assert reply.json() == REPLY
    assert "x-llmguard-request-id" not in reply.headers
    assert len(entries(world.served)) == rows


@pytest.mark.parametrize("world", ["/routes"], indirect=True)
def test_each_layer_keeps_to_its_routes(world: World) -> None:
    """Quota is for `/llm/*`, authn for what SDKs call; what is below a pattern is read as the path of an API."""
    first = world.post(chat(), key=None, path="/llm/v1/chat/completions")
    assert (first.status_code, world.provider.requests[-1].target) == (200, "/llm/v1/chat/completions")
    entry = entry_of(world.served, event_id=first.headers["x-llmguard-request-id"])
    assert (entry["team"], entry["endpoint"]) == ("unattributed", "/v1/chat/completions")
    assert world.post(chat(), key=None, path="/llm/v1/nowhere").status_code == 404
    assert "x-llmguard-request-id" not in world.post(chat()).headers
    assert world.post(chat(), key="lg_prod_nobody").status_code == 401
    calls = len(world.provider.requests)
    for detour in ("/x/../llm/v1/chat/completions", "/llm//v1/chat/completions", "/%6clm/v1/chat/completions"):
        port = int(world.server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 10) as line:
            line.sendall(world.sent(chat()).replace(b"/v1/chat/completions", detour.encode()))
            assert int(line.recv(65536).split(b" ")[1]) in (400, 404), detour
    assert len(world.provider.requests) == calls


@pytest.mark.parametrize("world", ["/host"], indirect=True)
def test_pages_of_the_application_pass(world: World) -> None:
    reply = httpx2.get(world.server.url + "/host/stats")
    assert reply.json() == {"page": "stats"}
    assert reply.headers["x-traced"] == "yes"


def test_nothing_is_left_running(running: World) -> None:
    assert httpx2.get(running.server.url + "/open").text == "0"
