"""Replies that go wrong or are read in unusual ways, through guarded clients: each call ends once, and rightly charged.

At a dollar a million tokens, a prompt of `Hello` is 2 tokens by estimate or 9 with its frame, and a reply is what the
provider says it is, or what was seen of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from llmguard import refusal
from llmguard.integrations.httpx import async_http_client, http_client, running, transport
from tests.support.gateway import free_port
from tests.support.inside import Inside, guarded_sdks, inside
from tests.support.upstream import upstream

HELLO = [{"role": "user", "content": "Hello"}]
WORDS = {"team": "search", "env": "prod", "feature": "chat"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Inside]:
    with inside(tmp_path) as running:
        yield running


def client_of(world: Inside, **options: Any) -> Any:
    return http_client(guard=world.guard, **WORDS, **options)


def event(text: str, **more: Any) -> str:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return f"data: {json.dumps(chunk | {'choices': [choice]} | more)}\n\n"


def usage(read: int, written: int) -> str:
    return event("", choices=[], usage={"prompt_tokens": read, "completion_tokens": written, "total_tokens": 0})


STREAM = event("one ") + event("two ") + event("three") + usage(11, 3) + "data: [DONE]\n\n"


def post(client: Any, world: Inside, **fields: Any) -> Any:
    body = {"model": "m", "messages": HELLO, "max_tokens": 50} | fields
    return client.post(f"{world.provider.origin}/v1/chat/completions", json=body)


# Streams that are left


def test_a_stream_left_by_break_is_settled_when_it_is_collected(world: Inside) -> None:
    world.provider.reply(sse=event("word ") * 50 + STREAM, cuts=[400], gap=0.01)
    with guarded_sdks(world) as sdk:
        stream = sdk.oai.chat.completions.create(model="m", messages=HELLO, stream=True)
        for _ in stream:
            break
        assert not world.idle()
        del stream
        gc.collect()
        (row,) = world.rows(1)
        world.provider.wait_for(lambda provider: provider.open_connections == 0)
    assert (row["status"], row["usage_source"]) == (200, "estimated")
    assert 0 < row["output_tokens"] < 60
    assert world.idle()


def test_an_asynchronous_stream_left_by_break_is_settled_too(world: Inside) -> None:
    world.provider.reply(sse=event("word ") * 50 + STREAM, cuts=[400], gap=0.01)

    async def leave(sdk: Any) -> None:
        stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        async for _ in stream:
            break
        del stream
        async with asyncio.timeout(5):
            while not world.idle():
                gc.collect()  # more than once: a chain of asynchronous generators comes apart link by link
                await asyncio.sleep(0.01)

    with guarded_sdks(world, sync=False) as sdk:
        sdk.done(leave(sdk.oai))
        (row,) = world.rows(1)
    assert (row["usage_source"], world.idle()) == ("estimated", True)


def test_a_stream_that_its_caller_keeps_and_forgets_is_swept(world: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.2)
    world.provider.reply(sse=event("word ") * 50 + STREAM, cuts=[400], gap=0.01)
    with guarded_sdks(world) as sdk:
        stream = sdk.oai.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        (row,) = world.rows(1)
        world.provider.wait_for(lambda provider: provider.open_connections == 0)
        with pytest.raises(openai.APIConnectionError):
            list(stream)
    assert row["usage_source"] == "estimated"
    world.rows(1)


def test_a_silent_provider_is_no_idle_caller(world: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.2)
    world.provider.reply(sse=STREAM, cuts=[len(event("one ")), 10_000], gap=0.8)
    with guarded_sdks(world) as sdk:
        chunks = list(sdk.oai.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["one ", "two ", "three"]
    assert [(row["output_tokens"], row["usage_source"]) for row in world.rows(1)] == [(3, "provider")]


def test_the_record_is_written_before_the_end_is_handed_on(world: Inside) -> None:
    world.provider.reply(sse=STREAM, cuts=[60])
    with guarded_sdks(world) as sdk:
        seen = []
        for chunk in sdk.oai.chat.completions.create(model="m", messages=HELLO, stream=True):
            seen.append((chunk.choices[0].delta.content, world.idle()))
        assert world.idle()
    assert [text for text, _ in seen] == ["one ", "two ", "three"]
    assert not any(over for _, over in seen[:-1])


# Replies that break off, or never come


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_call_that_times_out_after_it_was_sent_may_have_been_billed(world: Inside, sync: bool) -> None:
    world.provider.reply(fault="hang", json_body={})
    with guarded_sdks(world, sync=sync) as sdk:
        client = sdk.oai.with_options(timeout=0.2, max_retries=1)
        with pytest.raises(openai.APITimeoutError):
            sdk.done(client.chat.completions.create(model="m", messages=HELLO, max_tokens=50))
        rows = world.rows(2)
    assert {(row["status"], row["usage_source"], row["output_tokens"]) for row in rows} == {(0, "estimated", 50)}
    assert all(row["cost_nano"] > 50_000 for row in rows)
    assert world.idle()


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_a_connection_that_breaks_before_the_head_is_charged_by_estimate(world: Inside, fault: Any) -> None:
    world.provider.reply(fault=fault, json_body={})
    with client_of(world) as client, pytest.raises(httpx2.TransportError):
        post(client, world)
    assert [(row["status"], row["usage_source"]) for row in world.rows(1)] == [(0, "estimated")]


def test_a_stream_that_breaks_off_is_charged_for_what_was_seen(world: Inside) -> None:
    world.provider.reply(sse=STREAM, fault="reset", after=len(event("one ")) + 3)
    with guarded_sdks(world) as sdk, pytest.raises(openai.APIConnectionError):
        list(sdk.oai.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert [(row["status"], row["usage_source"]) for row in world.rows(1)] == [(200, "estimated")]


def test_a_call_that_reaches_nobody_costs_nothing_and_leaves_no_row(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    gone = {"gone": {"dialect": "openai", "base_url": url, "keys": ["k"], "internal": True}}
    with inside(tmp_path, providers=gone, prices={}) as world:
        with client_of(world) as client, pytest.raises(httpx2.ConnectError):
            client.post(f"{url}/chat/completions", json={"model": "m", "messages": HELLO})
        assert world.idle()
        world.guard.close()
        world.rows(0)


def test_an_error_of_the_providers_is_free_and_comes_as_it_is(world: Inside) -> None:
    world.provider.reply(status=500, json_body={"error": {"message": "out of order"}})
    with guarded_sdks(world) as sdk, pytest.raises(openai.InternalServerError) as caught:
        sdk.oai.with_options(max_retries=1).chat.completions.create(model="m", messages=HELLO)
    assert caught.value.body == {"message": "out of order"}
    assert [(row["status"], row["cost_nano"]) for row in world.rows(2)] == [(500, 0)] * 2


def test_an_event_hook_that_raises_for_the_status_makes_an_error_no_dearer(world: Inside) -> None:
    world.provider.reply(status=500, json_body={})
    hooks = {"response": [lambda response: response.raise_for_status()]}
    with client_of(world, event_hooks=hooks) as client, pytest.raises(httpx2.HTTPStatusError):
        post(client, world)
    assert [(row["status"], row["cost_nano"]) for row in world.rows(1)] == [(500, 0)]


# Redirects, transports, mocks


@pytest.mark.parametrize("by_transport", [False, True])
def test_a_redirect_costs_nothing_and_its_end_is_charged_once(world: Inside, by_transport: bool) -> None:
    bill = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    world.provider.queue(status=307, headers={"location": "/v1/chat/completions"}, json_body={})
    world.provider.reply(json_body={"choices": [], "usage": bill})
    if by_transport:
        guarded = transport(httpx2.HTTPTransport(), guard=world.guard, **WORDS)
        client = httpx2.Client(transport=guarded, follow_redirects=True)
    else:
        client = client_of(world)
    with client:
        reply = post(client, world)
    assert [hop.status_code for hop in (*reply.history, reply)] == [307, 200]
    assert len(world.provider.requests) == 2
    rows = world.rows(2 if by_transport else 1)
    assert [row["cost_nano"] for row in rows] == [0, 12_000][-len(rows) :]
    assert {row["team"] for row in rows} == {"search"}


@pytest.mark.parametrize("module", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_a_mocked_reply_is_metered_although_nobody_iterates_over_it(world: Inside, module: Any) -> None:
    bill = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    whole = {"choices": [], "usage": bill}

    def reply(request: Any) -> Any:
        if json.loads(request.content).get("stream"):
            return module.Response(200, headers={"content-type": "text/event-stream"}, content=STREAM.encode())
        return module.Response(200, json=whole)

    mock = module.MockTransport(reply)
    with client_of(world, module=module.__name__, wrap=mock) as client:
        got = post(client, world)
        assert got.json() == whole
        assert got.headers["x-llmguard-target"] == "local/m"
        assert "three" in post(client, world, stream=True).text
    assert [(row["output_tokens"], row["usage_source"]) for row in world.rows(2)] == [(5, "provider"), (3, "provider")]
    assert world.provider.requests == []


def test_an_asynchronous_mock_is_metered_too(world: Inside) -> None:
    mock = httpx2.MockTransport(lambda request: httpx2.Response(200, content=iter_async(STREAM.encode())))

    async def ask() -> str:
        async with async_http_client(guard=world.guard, wrap=mock, **WORDS) as client:
            return (await post(client, world, stream=True)).text

    text = asyncio.run(ask())
    assert '"usage"' not in text  # only the guard has asked for it
    assert text.endswith("data: [DONE]\n\n")
    assert [row["output_tokens"] for row in world.rows(1)] == [3]


async def iter_async(data: bytes) -> Any:
    for at in range(0, len(data), 50):
        yield data[at : at + 50]


def test_with_options_copies_and_raw_replies_go_through_the_same_guard(world: Inside) -> None:
    with guarded_sdks(world) as sdk:
        copy = sdk.oai.with_options(max_retries=0).copy(default_headers={"x-llmguard-user": "kim"})
        raw = copy.chat.completions.with_raw_response.create(model="echo", messages=HELLO)
        with copy.chat.completions.with_streaming_response.create(model="echo", messages=HELLO) as reply:
            reply.read()
    assert raw.headers["x-llmguard-cost-usd"] == reply.headers["x-llmguard-cost-usd"] == "0.000006"
    rows = world.rows(2)
    assert [row["event_id"] for row in rows] == [
        raw.headers["x-llmguard-request-id"],
        reply.headers["x-llmguard-request-id"],
    ]
    assert {row["end_user"] for row in rows} == {"kim"}
    assert not any(name.startswith("x-llmguard") for seen in world.provider.requests for name, _ in seen.headers)


def test_a_large_whole_reply_flows_on_and_is_recorded_before_its_end(world: Inside) -> None:
    vectors = [{"object": "embedding", "index": n, "embedding": "A" * 4_000} for n in range(200)]
    bill = {"prompt_tokens": 900, "total_tokens": 900}
    world.provider.reply(json_body={"object": "list", "data": vectors, "model": "m", "usage": bill})
    with guarded_sdks(world) as sdk:
        got = sdk.oai.embeddings.with_raw_response.create(model="m", input="Hello", encoding_format="base64")
    assert len(got.http_response.json()["data"]) == 200
    assert "x-llmguard-cost-usd" not in got.headers
    assert [(row["input_tokens"], row["cost_nano"]) for row in world.rows(1)] == [(900, 900_000)]


# Edits, cuts, and what is none of ours


def test_a_budget_that_runs_out_ends_the_stream_in_the_dialects_own_way(tmp_path: Path) -> None:
    budget = {"name": "small", "scope": {"team": "*"}, "limit": "$0.004", "window": "day"}
    with inside(tmp_path, budgets=[budget]) as world, guarded_sdks(world) as sdk:
        world.provider.reply(sse=event("many words in every event ") * 3_000 + STREAM, cuts=[8_000], gap=0.001)
        with pytest.raises(openai.APIError) as caught:
            list(sdk.oai.chat.completions.create(model="m", messages=HELLO, stream=True))
        said = refusal(caught.value)
        assert said is not None
        assert (said.code, said.rule, said.scope) == ("request_exceeds_budget", "small", {"team": "search"})
        (row,) = world.rows(1)
        world.provider.wait_for(lambda provider: provider.open_connections == 0)
        assert 3_000_000 < row["cost_nano"] <= 4_400_000
        assert row["usage_source"] == "estimated"


def test_a_lowered_max_tokens_is_what_the_provider_gets(tmp_path: Path) -> None:
    budget = {"name": "small", "scope": {"team": "*"}, "limit": "$0.02", "window": "day"}
    with inside(tmp_path, budgets=[budget]) as world, client_of(world) as client:
        reply = post(client, world, max_tokens=100_000)
        (seen,) = world.provider.requests
    assert reply.status_code == 200
    assert seen.json()["max_tokens"] == int(reply.headers["x-llmguard-max-tokens"]) < 22_000
    assert int(seen.header("content-length") or 0) == len(seen.body)


def test_a_body_that_is_no_json_is_refused_as_the_gateway_refuses_it(world: Inside) -> None:
    with client_of(world) as client:
        reply = client.post(f"{world.provider.origin}/v1/chat/completions", content=b"{no json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")
    assert world.provider.requests == []


def test_what_costs_nothing_or_goes_elsewhere_passes_as_it_is(world: Inside) -> None:
    with upstream() as other, client_of(world) as client:
        for url in (f"{world.provider.origin}/v1/models", f"{world.provider.origin}/v1/files", f"{other.origin}/x"):
            assert "x-llmguard-request-id" not in client.get(url).headers
        signed = {"authorization": "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=y"}
        client.post(f"{world.provider.origin}/v1/chat/completions", json={"model": "m"}, headers=signed)
        seen = [*world.provider.requests, *other.requests]
    assert {one.header("accept-encoding") for one in seen} != {"identity"}
    assert seen[2].header("authorization") == signed["authorization"]
    assert seen[2].json() == {"model": "m"}
    world.guard.close()
    world.rows(0)


def test_uploads_cost_what_the_operator_says(tmp_path: Path) -> None:
    with inside(tmp_path) as world:
        config = world.guard.config.providers["local"]
        assert config.passthrough is None
        with guarded_sdks(world) as sdk:
            with pytest.raises(openai.PermissionDeniedError) as caught:
                sdk.oai.images.generate(model="m", prompt="a cat")
            assert caught.value.code == "not_priced"
            with pytest.raises(anthropic.BadRequestError):
                sdk.ant.messages.create(model="m", max_tokens=-1, messages=HELLO)
    assert world.provider.requests == []


def test_the_overhead_of_a_refused_loop_is_small(tmp_path: Path) -> None:
    budget = {"name": "a-cent", "scope": {"team": "*"}, "limit": "$0.01", "window": "total"}
    with inside(tmp_path, budgets=[budget]) as world, client_of(world) as client:
        world.provider.reply(json_body={"choices": [], "usage": {"prompt_tokens": 9_000, "completion_tokens": 2_000}})
        post(client, world)
        since = time.monotonic()
        assert {post(client, world).status_code for _ in range(50)} == {429}
        assert time.monotonic() - since < 2
