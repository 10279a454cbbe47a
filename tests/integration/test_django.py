"""The gateway and guarded views in a Django project, under WSGI and ASGI servers.

GZipMiddleware, CsrfViewMiddleware and ATOMIC_REQUESTS are on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.replies import COST, REPLY, USAGE, chat_stream
from tests.support.sight import entries, entry_of
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
    wire,
    world_of,
)

ASGI = ("uvicorn", "hypercorn")
KINDS = ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent", *ASGI]
SILENT = chat_stream(4, USAGE)


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with shared(tmp_path_factory.mktemp("django")) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, common: Shared) -> Iterator[World]:
    name = "asgi" if request.param in ASGI else "wsgi"
    with world_of(common, request.param, f"tests.support.django_served:{name}", "/llm") as made:
        yield made


@pytest.mark.parametrize("prefix", ["/llm", "/deep/b%20%C3%A9"])
def test_a_call_of_the_gateway_is_recorded_and_settled(world: World, prefix: str) -> None:
    world.provider.reply(json_body=REPLY)
    headers = {"authorization": f"Bearer {world.key}", "accept-encoding": "gzip"}
    reply = httpx2.post(f"{world.server.url}{prefix}/v1/chat/completions", json=chat(), headers=headers)
    assert (reply.status_code, reply.json()) == (200, REPLY), reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-llmguard-cost-usd"] == "0.0065"
    entry = entry_of(world.served, event_id=reply.headers["x-llmguard-request-id"])
    assert (entry["cost_nano"], entry["team"], entry["feature"], entry["status"]) == (COST, "search", "chat", 200)
    assert world.provider.requests[-1].header("authorization") == "Bearer upstream-key"
    world.settled()


def test_refusals_of_the_gateway(world: World) -> None:
    before = len(world.provider.requests)
    reply = world.post(chat(max_tokens=100), key=world.poor)
    assert reply.status_code in (403, 429)
    assert reply.json()["error"]["llmguard"]["scope"] == {"team": "poor", "feature": "little"}
    assert world.post(chat(), key="lg_prod_nobody").status_code == 401
    assert world.post(chat(), path="/v1/nowhere").status_code == 404
    assert world.post(chat(), path="/v1/chat%2fcompletions").status_code in (400, 404)
    assert world.post(chat(messages=[{"role": "user", "content": "x" * 11_000_000}])).status_code == 413
    assert len(world.provider.requests) == before


def test_a_body_larger_than_django_takes(world: World) -> None:
    world.provider.reply(json_body=REPLY)
    reply = world.post(chat(messages=[{"role": "user", "content": "x" * 4_000_000}]))
    assert reply.status_code == 200, reply.text
    assert len(world.provider.requests[-1].body) > 4_000_000


@pytest.mark.parametrize("place", ["gateway", "view"])
def test_a_stream_arrives_while_it_is_written(world: World, place: str) -> None:
    world.provider.queue(Answer(200, [("content-type", SSE)], SILENT, "chunked", gap=0.2))
    known = known_to(world)
    headers = {"authorization": f"Bearer {world.key}", "accept-encoding": "gzip"}
    body = chat(stream=True, stream_options={"include_usage": True})
    method, path, options = "POST", "/llm/v1/chat/completions", {"json": body}
    if place == "view":
        method, path, options = "GET", streaming_view(world), {}
    with httpx2.stream(method, world.server.url + path, headers=headers, timeout=20, **options) as reply:
        pieces = reply.iter_raw()
        first = next(pieces)
        first_at = time.monotonic()
        rest = b"".join(pieces)
    assert (first + rest).endswith(b"data: [DONE]\n\n")
    assert time.monotonic() - first_at > 0.4, "the first chunk came with the last"
    (entry,) = wait_for_new(world, known)
    assert (entry["cost_nano"], entry["stream"], entry["interrupted"]) == (COST, True, None)
    if place == "view":
        assert (entry["team"], entry["feature"]) == ("web", path.strip("/"))
        assert entry["tree_id"] is not None


def streaming_view(world: World) -> str:
    """The view whose stream Django does not collect first: one of its own world."""
    return "/astream" if world.server.kind in ASGI else "/stream"


@pytest.mark.parametrize("said", [0, 2], ids=["before the head", "mid-stream"])
def test_a_caller_of_the_gateway_leaves_while_the_provider_is_silent(world: World, said: int) -> None:
    sent = sum(map(len, SILENT[:said]))
    world.provider.queue(Answer(200, [("content-type", SSE)], SILENT, "chunked", fault="hang", after=sent or None))
    known = known_to(world)
    number = hang_up(world, world.request(chat(stream=True)), SILENT[0] if said else b"")
    closed_within(world, number, 1.0)
    (entry,) = wait_for_new(world, known)
    assert entry["interrupted"] == "caller_gone"
    assert 0 < entry["cost_nano"] <= entry["cap_nano"]
    world.settled()


def test_a_caller_of_a_view_leaves(world: World) -> None:
    """ASGI servers tell while the provider is silent; WSGI servers notice with the second chunk that nobody takes."""
    path, many = streaming_view(world), SILENT[:2] + SILENT[1:2] * 50
    silent = {"fault": "hang", "after": sum(map(len, SILENT[:2]))} if path == "/astream" else {"gap": 0.05}
    world.provider.queue(Answer(200, [("content-type", SSE)], many, "chunked", **silent))
    known = known_to(world)
    closed_within(world, hang_up(world, wire("GET", path), SILENT[0]), 1.0)
    (entry,) = wait_for_new(world, known)
    assert (entry["interrupted"], entry["feature"]) == ("caller_gone", path.strip("/"))


@pytest.mark.parametrize("path", ["/ask", "/aask"])
def test_views_are_guarded_and_attributed(world: World, path: str) -> None:
    world.provider.reply(json_body=REPLY)
    known = known_to(world)
    for team in ("red", "blue"):
        reply = httpx2.get(world.server.url + path, headers={"x-team": team}, timeout=20)
        assert reply.json() == REPLY, reply.text
    new = {entry["team"]: entry for entry in wait_for(world, known, 2)}
    assert {name: (entry["feature"], entry["cost_nano"]) for name, entry in new.items()} == {
        "red": (path.strip("/"), COST),
        "blue": (path.strip("/"), COST),
    }
    assert new["red"]["tree_id"] != new["blue"]["tree_id"]
    assert httpx2.get(world.server.url + "/").text == "host"


def wait_for(world: World, known: set[str], count: int) -> list[dict[str, object]]:
    """So many new entries."""
    deadline = time.monotonic() + 10
    while len(new := [e for e in entries(world.served) if e["event_id"] not in known]) < count:
        assert time.monotonic() < deadline, new
        time.sleep(0.05)
    return new
