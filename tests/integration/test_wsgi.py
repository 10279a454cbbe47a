"""The gateway as a WSGI application under the servers people use: the same rows, refusals and streams as the proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.replies import COST, REPLY, USAGE, chat_stream
from tests.support.sight import entry_of
from tests.support.upstream import SSE, Answer
from tests.support.web_world import (
    Shared,
    World,
    chat,
    closed_within,
    hang_up,
    known_to,
    shared,
    wait_for_new,
    world_of,
)

KINDS = ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent", "waitress", "werkzeug"]


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with shared(tmp_path_factory.mktemp("wsgi")) as made:
        yield made


@pytest.fixture(scope="module", params=[*KINDS, "flask"])
def world(request: pytest.FixtureRequest, common: Shared) -> Iterator[World]:
    flask = request.param == "flask"
    kind, name = ("gunicorn-gthread", "flask") if flask else (request.param, "application")
    with world_of(common, kind, f"tests.support.wsgi_served:{name}", "/llm" if flask else "") as made:
        yield made


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
    world.settled()


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
    with world.stream(chat(stream_options={"include_usage": True})) as reply:
        pieces = reply.iter_raw()
        first = next(pieces)
        first_at = time.monotonic()
        rest = b"".join(pieces)
    assert first + rest == b"".join(events)
    assert time.monotonic() - first_at > 0.4, "the first chunk came with the last"
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["stream"], entry["interrupted"]) == (COST, True, None)


@pytest.mark.parametrize("said", [0, 2], ids=["before the head", "mid-stream"])
def test_a_caller_who_leaves_while_the_provider_is_silent(world: World, said: int) -> None:
    events = chat_stream(4, USAGE)
    sent = sum(map(len, events[:said]))
    world.provider.queue(Answer(200, [("content-type", SSE)], events, "chunked", fault="hang", after=sent or None))
    known = known_to(world)
    number = hang_up(world, world.request(chat(stream=True)), events[0] if said else b"")
    closed_within(world, number, 1.0)
    (entry,) = wait_for_new(world, known)
    assert entry["interrupted"] == "caller_gone"
    assert 0 < entry["cost_nano"] <= entry["cap_nano"]
    world.settled()
