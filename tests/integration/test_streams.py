"""Streams through a running gateway: bytes as they come, callers who leave, budgets that end, providers that break off.

The quota store is a real one, so that what is held can be looked at from outside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from google import genai

from llmguard.guard import Guard
from tests.support.gateway import Gateway, gateway
from tests.support.load import BROKEN, CHAT, Body, Line, Outcome, usage_of
from tests.support.replies import chat_stream, claude_stream, google_stream
from tests.support.sdks import Sdks, sdks
from tests.support.sight import check_store, entries, entry_of
from tests.support.upstream import SSE, Answer, Upstream, answer, upstream
from tests.support.valkey import ValkeyServer

FAMILIES = {"local": "openai", "patient": "openai", "claude": "anthropic", "google": "gemini"}
PRICE = {"input": "$5/M", "output": "$15/M", "output_max": 128_000}
INPUT_NANO, OUTPUT_NANO = 5_000, 15_000
SECOND = 1.0


@dataclass(frozen=True)
class World:
    """A gateway before one provider of each family, and `patient`, whose streams are read on when a caller leaves."""

    served: Gateway
    provider: Upstream
    store: ValkeyServer
    key: Callable[..., str]

    def check_all_settled(self) -> None:
        """Nothing is held, and the store has settled what the ledger has, once the last record is there."""
        while self.served.metric("llmguard_spool_records_unshipped"):
            time.sleep(0.05)
        check_store(self.store, sum(entry["cost_nano"] for entry in entries(self.served)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with upstream() as provider, ValkeyServer() as store:
        common = {"base_url": provider.origin, "keys": ["k"], "internal": True}
        providers: dict[str, dict[str, Any]] = {n: {"dialect": f, **common} for n, f in FAMILIES.items()}
        providers["local"]["default"] = True
        providers["patient"]["on_disconnect"] = "drain"
        config = {
            "providers": providers,
            "prices": {f"{name}/*": PRICE for name in FAMILIES},
            "budgets": [{"name": "team", "scope": {"team": "*"}, "limit": "$10000", "window": "total"}],
            "store": store.tcp_url,
        }
        with gateway(tmp_path_factory.mktemp("streams"), config) as served:
            ledger = Guard(str(served.path)).ledger()

            def key(**options: Any) -> str:
                return ledger.keys.create("search", "prod", "chat", **options)[1]

            yield World(served, provider, store, key)
            ledger.close()


def chat(user: str, *, stream: bool = True, model: str = "gpt-4o", **more: Any) -> Body:
    messages = [{"role": "user", "content": "Say something that takes a while, please."}]
    body: Body = {"model": model, "messages": messages, "user": user} | more
    return body | {"stream": True} if stream else body


def streaming(pieces: list[bytes], **how: Any) -> Answer:
    return Answer(headers=[("content-type", SSE)], pieces=pieces, framing="chunked", **how)


# ---------------------------------------------------------------------- bytes as they come


MESSAGE = {"model": "m", "max_tokens": 900, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
CONTENT = {"contents": [{"role": "user", "parts": [{"text": "Go on."}]}]}
SPOKEN = {
    "openai": (CHAT, chat("bytes-0", stream_options={"include_usage": True}), chat_stream(5, {"prompt_tokens": 1})),
    "anthropic": ("/v1/messages", MESSAGE, claude_stream(3)),
    "gemini": ("/v1beta/models/m:streamGenerateContent?alt=sse", CONTENT, google_stream(5)),
}


async def timed(line: Line) -> list[tuple[float, bytes]]:
    """The chunks of a reply whose head was read, and when each came."""
    found = []
    while piece := await line.chunk():
        found.append((time.monotonic(), piece))
    return found


@pytest.mark.parametrize("family", SPOKEN)
def test_pieces_arrive_as_they_are_sent_and_in_their_own_bounds(world: World, family: str) -> None:
    path, body, pieces = SPOKEN[family]
    world.provider.reply(streaming(pieces, gap=0.1))

    async def run() -> list[tuple[float, bytes]]:
        with closing(Line(world.served.port, world.key())) as line:
            await line.send(body, path=path)
            status, headers = await line.head()
            assert (status, headers["content-type"]) == (200, SSE)
            return await timed(line)

    found = asyncio.run(run())
    *before, terminal = [piece for _, piece in found]
    assert before == pieces[:-1]
    assert terminal == pieces[-1]
    assert found[-1][0] - found[0][0] > 0.1 * (len(pieces) - 2)
    world.check_all_settled()


def test_events_cut_in_their_middle_go_on_as_they_come_and_the_last_one_whole(world: World) -> None:
    events = chat_stream(4, {"prompt_tokens": 1, "completion_tokens": 1})
    whole = b"".join(events)
    pieces = [whole[at : at + 100] for at in range(0, len(whole), 100)]
    world.provider.reply(streaming(pieces, gap=0.02))

    async def run() -> list[bytes]:
        with closing(Line(world.served.port, world.key())) as line:
            await line.send(chat("bytes-1", stream_options={"include_usage": True}))
            await line.head()
            return [piece for _, piece in await timed(line)]

    found = asyncio.run(run())
    assert b"".join(found) == whole
    before_the_end = whole.index(events[-1]) // 100
    assert found[:before_the_end] == pieces[:before_the_end]
    assert found[-1].endswith(events[-1])


# ---------------------------------------------------------------------- callers who hang up


def one_body(size: int, **how: Any) -> Answer:
    """A whole reply in 20 pieces."""
    text = "x" * (size - 400)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    reply = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}
    reply["usage"] = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return answer(json_body=reply, cuts=[size // 20], **how)


LONG = chat_stream(400)
PHASES: dict[str, tuple[bool, Answer, int]] = {
    "before the head": (False, Answer(fault="hang"), 0),
    "before the head of a stream": (True, Answer(fault="hang"), 0),
    "whole reply, slow": (False, one_body(10_000, gap=0.5), 0),
    "whole reply too large to hold": (False, one_body(4_000_000, gap=0.05), 2),
    "stream that fell silent": (True, streaming(LONG, fault="hang", after=sum(map(len, LONG[:3]))), 1),
    "stream that runs": (True, streaming(LONG, gap=0.02), 3),
    "JSON instead of a stream": (True, one_body(10_000, gap=0.5), 0),
}
"""Whether the call streams, what the provider does, and how many pieces the caller reads before it hangs up."""


async def hang_up(world: World, body: Body, read: int) -> float:
    """Call, read some pieces, hang up; how long the provider's connection lived on."""
    provider, before = world.provider, len(world.provider.requests)
    with closing(Line(world.served.port, world.key())) as line:
        await line.send(body)
        if read:
            await line.head()
            pieces = [await read_some(line, streamed=bool(body.get("stream"))) for _ in range(read)]
            assert all(pieces)
        await asyncio.to_thread(provider.wait_for, lambda u: len(u.requests) > before)
        await asyncio.sleep(0.3)
        number, began = provider.requests[-1].connection, time.monotonic()
        assert number in provider.alive
    await asyncio.to_thread(provider.wait_for, lambda u: number not in u.alive, SECOND)
    return time.monotonic() - began


async def read_some(line: Line, *, streamed: bool) -> bytes:
    return await line.chunk() if streamed else await line.some()


@pytest.mark.parametrize("phase", PHASES)
def test_a_caller_who_hangs_up_ends_the_providers_work_within_a_second(world: World, phase: str) -> None:
    stream, reply, read = PHASES[phase]
    world.provider.reply(reply)
    user = "gone-" + phase.replace(" ", "-")
    lived = asyncio.run(hang_up(world, chat(user, stream=stream, max_tokens=500), read))
    row = entry_of(world.served, end_user=user)
    assert (row["usage_source"], row["interrupted"]) == ("estimated", "caller_gone")
    assert 0 < row["cost_nano"] <= row["cap_nano"]
    world.check_all_settled()
    print(f"closed after {lived * 1000:.0f} ms, charged {row['cost_nano']} of {row['cap_nano']}")


def error_body(size: int, **how: Any) -> Answer:
    """A provider's error in pieces of 10 kB."""
    error = {"error": {"message": "x" * size, "type": "server_error", "code": None, "param": None}}
    return answer(status=500, json_body=error, cuts=[10_000], framing="chunked", **how)


def test_an_error_is_free_also_for_a_caller_who_does_not_wait_for_it(world: World) -> None:
    world.provider.reply(error_body(200_000, gap=0.3))
    asyncio.run(hang_up(world, chat("error-0"), 0))
    row = entry_of(world.served, end_user="error-0")
    assert (row["status"], row["cost_nano"], row["interrupted"]) == (500, 0, "caller_gone")
    world.check_all_settled()


def test_an_error_without_end_is_given_up(world: World) -> None:
    world.provider.reply(error_body(3_000_000))
    before = len(world.provider.requests)
    with sdks(world.served.url, world.key()) as sdk, pytest.raises(openai.InternalServerError) as caught:
        sdk.oai.with_options(max_retries=0).chat.completions.create(**chat("error-1"))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
    (seen,) = world.provider.requests[before:]
    world.provider.wait_for(lambda u: seen.connection not in u.alive, SECOND)
    row = entry_of(world.served, end_user="error-1")
    assert (row["status"], row["cost_nano"], row["interrupted"]) == (500, 0, "upstream_failed")
    world.check_all_settled()


def test_a_stream_that_is_drained_is_charged_by_its_provider(world: World) -> None:
    user = "drained-7"
    world.provider.reply(metered_stream(user))
    asyncio.run(leave_after(world, chat(user, model="patient/gpt-4o"), 2))
    row = entry_of(world.served, end_user=user)
    prompt, output = usage_of(user)
    assert (row["usage_source"], row["interrupted"]) == ("provider", "caller_gone")
    assert (row["input_tokens"], row["output_tokens"]) == (prompt, output)
    assert row["cost_nano"] == prompt * INPUT_NANO + output * OUTPUT_NANO
    world.check_all_settled()


def metered_stream(user: str) -> Answer:
    """A stream with the usage of this call, 0.1 s a piece."""
    prompt, output = usage_of(user)
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return streaming(chat_stream(10, usage), gap=0.1)


async def leave_after(world: World, body: Body, read: int) -> None:
    with closing(Line(world.served.port, world.key())) as line:
        await line.send(body)
        await line.head()
        for _ in range(read):
            assert await line.chunk()


# ---------------------------------------------------------------------- budgets that end in mid-stream


def endless(pieces: list[bytes]) -> Answer:
    """A provider that would go on for a long while: 500 pieces of some 250 tokens, 4 ms apart."""
    return streaming(pieces, gap=0.004)


def cut_chat(sdk: Sdks) -> None:
    chunks = list(sdk.oai.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].llmguard["code"] in ("budget_exceeded", "budget_insufficient")
    assert len(chunks) > 4


def cut_message(sdk: Sdks) -> None:
    kinds: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        sdk.ant.messages.stream(model="claude-3-haiku", max_tokens=60_000, messages=HELLO) as stream,
    ):
        kinds.extend(event.type for event in stream)
    assert kinds.count("text") > 4
    assert caught.value.type == "rate_limit_error"
    assert caught.value.error_code in ("budget_exceeded", "budget_insufficient")


def cut_content(sdk: Sdks) -> None:
    chunks: list[Any] = []
    silent = genai.types.GenerateContentConfig(thinking_config=genai.types.ThinkingConfig(thinking_budget=0))
    with pytest.raises(genai.errors.ClientError) as caught:
        chunks.extend(sdk.gem.models.generate_content_stream(model="m", contents="Hello", config=silent))
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert len(chunks) > 4


HELLO = [{"role": "user", "content": "Hello"}]
EMBEDDING = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "model": "e",
    "usage": {"prompt_tokens": 10_000, "total_tokens": 10_000},
}
CUTS: dict[str, tuple[Callable[[Sdks], None], list[bytes]]] = {
    "openai": (cut_chat, chat_stream(500, length=1_000)),
    "anthropic": (cut_message, claude_stream(500, length=1_000)),
    "gemini": (cut_content, google_stream(500, length=1_000)),
}


@pytest.mark.parametrize("family", CUTS)
def test_a_budget_that_ends_cuts_the_stream_as_its_dialect_ends_one(world: World, family: str) -> None:
    read, pieces = CUTS[family]
    key = world.key(budget="$0.10/day")
    spending, running = answer(json_body=EMBEDDING), endless(pieces)
    world.provider.reply(lambda seen: spending if seen.target.endswith("/embeddings") else running)
    with sdks(world.served.url, key) as sdk:
        assert sdk.oai.embeddings.create(model="e", input="five cents", encoding_format="float").data
        before = len(world.provider.requests)
        read(sdk)
        ended = time.monotonic()
        (seen,) = world.provider.requests[before:]
        world.provider.wait_for(lambda u: seen.connection not in u.alive, SECOND)
        closed = time.monotonic() - ended
    row = entry_of(world.served, interrupted="budget_cut", dialect=ROWS[family])
    assert row["usage_source"] == "estimated"
    assert 25_000_000 < row["cost_nano"] <= 60_000_000
    world.check_all_settled()
    print(f"cut at {row['cost_nano'] / 1e9} of the 5 cents left, provider closed {closed * 1000:.0f} ms after the end")


ROWS = {"openai": "openai_chat", "anthropic": "anthropic_messages", "gemini": "gemini_generate"}


# ---------------------------------------------------------------------- providers that break off


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_a_stream_that_breaks_off_is_broken_for_its_caller_too(world: World, fault: Any) -> None:
    user = f"broken-{fault}"
    pieces = chat_stream(50)
    world.provider.reply(streaming(pieces, gap=0.02, fault=fault, after=sum(map(len, pieces[:5]))))
    outcome = Outcome(user, True)

    async def run() -> None:
        with closing(Line(world.served.port, world.key())) as line, pytest.raises(BROKEN):
            await line.call(chat(user), into=outcome)

    asyncio.run(run())
    assert (outcome.status, outcome.whole) == (200, False)
    assert outcome.body == b"".join(pieces[:5])
    row = entry_of(world.served, end_user=user)
    assert (row["usage_source"], row["interrupted"]) == ("estimated", "upstream_failed")
    assert row["cost_nano"] > 0
    world.check_all_settled()


def test_the_sdk_hears_of_a_stream_that_breaks_off(world: World) -> None:
    pieces = chat_stream(50)
    world.provider.reply(streaming(pieces, fault="close", after=sum(map(len, pieces[:5]))))
    with sdks(world.served.url, world.key()) as sdk:
        stream = sdk.oai.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        with pytest.raises((openai.APIConnectionError, httpx.TransportError, httpx2.TransportError)):
            list(stream)


# ---------------------------------------------------------------------- callers who read slowly


def resident(served: Gateway) -> int:
    """Memory of the gateway's process, bytes."""
    assert served.process is not None
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def test_a_slow_reader_pauses_the_provider_and_loses_nothing(world: World) -> None:
    pieces = chat_stream(1_000, {"prompt_tokens": 10, "completion_tokens": 10}, length=40_000)
    total = sum(map(len, pieces))
    world.provider.reply(streaming(pieces))
    provider, sent_before = world.provider, world.provider.bytes_sent

    async def run() -> tuple[int, int, bytes]:
        with closing(Line(world.served.port, world.key(), receive=64 * 1024)) as line:
            memory = resident(world.served)
            await line.send(chat("slow-0", stream_options={"include_usage": True}))
            await line.head()
            sent = -1
            while sent != provider.bytes_sent:
                sent = provider.bytes_sent
                await asyncio.sleep(0.5)
            grown = resident(world.served) - memory
            body = b"".join([piece for _, piece in await timed(line)])
        return sent - sent_before, grown, body

    sent, grown, body = asyncio.run(run())
    assert sent < total / 2
    assert grown < 4_000_000
    assert body == b"".join(pieces)
    assert entry_of(world.served, end_user="slow-0")["usage_source"] == "provider"
    print(f"the provider stood at {sent / 1e6:.1f} of {total / 1e6:.0f} MB; memory grew by {grown / 1e6:.1f} MB")
