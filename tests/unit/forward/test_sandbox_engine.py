"""The sandbox engine keeps the contract that the relay relies on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Engine, Incoming, Outgoing
from llmguard.forward.sandbox import SandboxEngine, SandboxFaults

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(model: str = "echo", *, hold: int = 0, before: Callable[[], None] = lambda: None, **more: Any) -> Outgoing:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}).encode()
    return Outgoing("POST", b"/v1/chat/completions", [(b"Content-Type", b"application/json")], body, before, hold)


async def read(reply: Incoming, into: bytearray | None = None) -> bytes:
    got = bytearray() if into is None else into
    while piece := await reply.next():
        got += piece
    return bytes(got)


async def test_a_whole_reply_is_held_only_up_to_the_size_asked_for() -> None:
    engine: Engine = SandboxEngine()
    held = await engine.send(request(hold=262_144))
    assert held.body is not None
    assert (held.status, dict(held.headers)[b"content-type"]) == (200, b"application/json")
    assert json.loads(held.body)["usage"]["total_tokens"] == 2 + 4
    flowing = await engine.send(request(hold=len(held.body) - 1))
    assert flowing.body is None
    assert len(await read(flowing)) == len(held.body)


async def test_a_stream_comes_piece_by_piece_and_ends_once() -> None:
    reply = await SandboxEngine().send(request(stream=True))
    pieces = []
    while piece := await reply.next():
        pieces.append(piece)
    assert len(pieces) == 1 + 4 + 1 + 1
    assert pieces[-1] == b"data: [DONE]\n\n"
    assert await reply.next() == b""
    reply.close()
    reply.close()
    assert await reply.next() == b""


async def test_nothing_is_sent_when_before_send_raises() -> None:
    class Refused(Exception):
        pass

    def refuse() -> None:
        raise Refused

    with pytest.raises(Refused):
        await SandboxEngine().send(request(before=refuse))
    called: list[int] = []
    await SandboxEngine().send(request(before=lambda: called.append(1)))
    assert called == [1]


async def test_ids_are_fresh_and_replies_are_the_same() -> None:
    engine = SandboxEngine()
    bodies = [json.loads((await engine.send(request(hold=99_999))).body or b"") for _ in range(2)]
    assert bodies[0]["id"] != bodies[1]["id"]
    assert bodies[0]["choices"] == bodies[1]["choices"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_truncated_reply_breaks_off_and_says_that_it_was_sent(stream: bool) -> None:
    reply = await SandboxEngine().send(request("truncate", stream=stream))
    got = bytearray()
    with pytest.raises(UpstreamError) as caught:
        await read(reply, into=got)
    assert caught.value.sent
    assert got
    assert not got.endswith(b"\n\n")
    assert b"[DONE]" not in got
    with pytest.raises(UpstreamError):
        await SandboxEngine().send(request("truncate", hold=99_999))


async def test_a_hanging_model_times_out_or_is_cancelled() -> None:
    with pytest.raises(UpstreamError) as caught:
        await SandboxEngine(read_timeout=0.01).send(request("hang"))
    assert (caught.value.status, caught.value.sent) == (504, True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await SandboxEngine().send(request("hang"))


async def test_closing_the_engine_breaks_off_what_runs_and_refuses_what_comes() -> None:
    engine = SandboxEngine()
    running = asyncio.create_task(engine.send(request("hang")))
    await asyncio.sleep(0)
    await engine.aclose()
    with pytest.raises(UpstreamError) as broken:
        await running
    assert broken.value.sent
    with pytest.raises(UpstreamError) as refused:
        await engine.send(request())
    assert not refused.value.sent


async def test_delays_come_before_the_head_and_between_pieces() -> None:
    engine = SandboxEngine(SandboxFaults(latency_ms=20, chunk_interval_ms=5))
    begin = time.perf_counter()
    reply = await engine.send(request(stream=True))
    head = time.perf_counter() - begin
    await read(reply)
    whole = time.perf_counter() - begin
    assert 0.02 <= head < 1
    assert head + 6 * 0.005 <= whole < 2


async def test_errors_come_at_the_rate_asked_for() -> None:
    engine = SandboxEngine(SandboxFaults(error_rate=0.25, error_status=529))
    statuses = [(await engine.send(request())).status for _ in range(8)]
    assert statuses == [200, 200, 200, 529] * 2
    named = await engine.send(request("error-429"))
    assert (named.status, dict(named.headers)[b"retry-after"]) == (429, b"1")


async def test_objects_live_in_their_engine() -> None:
    one, other = SandboxEngine(), SandboxEngine()
    body = b'{"model":"echo","input":"Hello"}'
    made = await one.send(Outgoing("POST", b"/v1/responses", [], body, lambda: None, 99_999))
    target = f"/v1/responses/{json.loads(made.body or b'')['id']}".encode()
    fetch = Outgoing("GET", target, [], b"", lambda: None, 99_999)
    assert [(await engine.send(fetch)).status for engine in (one, other)] == [200, 404]
