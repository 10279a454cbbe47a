"""The upstream pool against raw servers on loopback, on both event loops: calls that go well, the line, letting go."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Outgoing
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.pool import Pool, PoolStats
from tests.support.pool_calls import HOLD, echo, pool_for, post, read_all, settled
from tests.support.raw_server import (
    CHUNKED_HEAD,
    EVENT_STREAM_HEAD,
    LAST_CHUNK,
    Peer,
    chunk,
    raw_server,
    reply,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


# What is written, and when.


async def test_request_on_the_wire_and_keep_alive() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            seen.append(request.head + request.body)
            await peer.send(reply(b"%d" % peer.number))

    async with raw_server(script) as server, pool_for(server) as pool:
        for _ in range(5):
            incoming = await pool.send(post(b'{"a":1}', hold=HOLD))
            assert (incoming.status, incoming.body) == (200, b"1")
            assert incoming.headers == [(b"content-length", b"1")]
        assert pool.stats == PoolStats(open=1, idle=1, waiting=0, opened=1)
    wire = b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n"
    assert seen == [wire % server.port + b'{"a":1}'] * 5


async def test_get_has_no_length_and_head_ends_with_its_head() -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            heads.append(head)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n" + (b"" if head[:1] == b"H" else b"x" * 9))

    async with raw_server(script) as server, pool_for(server) as pool:
        for method, size in (("GET", 9), ("HEAD", 0), ("GET", 9)):
            incoming = await pool.send(Outgoing(method, b"/v1/models?x=1", [], b"", lambda: None, HOLD))
            assert incoming.body == b"x" * size
        assert pool.stats.opened == 2
    assert [h.split(b"\r\n")[0] for h in heads] == [
        b"%b /v1/models?x=1 HTTP/1.1" % m for m in (b"GET", b"HEAD", b"GET")
    ]
    assert all(b"content-length" not in h for h in heads)


async def test_before_send_is_called_once_before_the_first_byte() -> None:
    order: list[str] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            order.append("arrived")
            await peer.send(reply())

    async with raw_server(script) as server, pool_for(server) as pool:
        for _ in range(2):
            await pool.send(post(hold=HOLD, before_send=lambda: order.append("before")))
    assert order == ["before", "arrived"] * 2


async def test_before_send_that_raises_sends_nothing_and_keeps_the_connection() -> None:
    def refuse() -> None:
        raise LookupError("spool")

    async with raw_server(echo) as server, pool_for(server) as pool:
        with pytest.raises(LookupError, match="spool"):
            await pool.send(post(before_send=refuse))
        assert (await pool.send(post(b"after", hold=HOLD))).body == b"after"
        assert pool.stats == PoolStats(open=1, idle=1, waiting=0, opened=1)


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\0b"])
async def test_unsafe_request_is_refused_before_anything_happens(value: bytes) -> None:
    async with raw_server(echo) as server, pool_for(server) as pool:
        with pytest.raises(ValueError, match="line break or NUL"):
            await pool.send(post(headers=[(b"x", value)], before_send=pytest.fail))
        assert (pool.stats.open, server.accepted) == (0, 0)


async def test_made_without_a_loop() -> None:
    pool = await asyncio.to_thread(lambda: Pool(Origin("http", "127.0.0.1", 1, internal=True)))
    assert pool.stats.open == 0
    await pool.aclose()


# What comes back.


async def test_stream_arrives_as_it_is_sent() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENT_STREAM_HEAD)
        for i in range(5):
            await go.wait()
            go.clear()
            await peer.send(chunk(b"data: %d\n\n" % i))
        await go.wait()
        await peer.send(LAST_CHUNK)
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post(hold=HOLD))
        assert incoming.body is None
        assert (b"content-type", b"text/event-stream") in incoming.headers
        for i in range(5):
            go.set()
            assert await incoming.next() == b"data: %d\n\n" % i
        go.set()
        assert await incoming.next() == b""
        assert await incoming.next() == b""
        assert pool.stats.idle == 1


async def test_close_delimited_body() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome ")
        await peer.send(b"text")

    async with raw_server(script) as server, pool_for(server) as pool:
        assert (await pool.send(post(hold=HOLD))).body == b"some text"
        assert await read_all(await pool.send(post())) == b"some text"
        assert (pool.stats.open, pool.stats.opened) == (0, 2)


async def test_content_coding_and_redirects_pass_untouched() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            reply(b"\x1f\x8b\x08", "content-encoding: gzip", "Location: http://169.254.169.254/", status="302 Found")
        )

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post(hold=HOLD))
        assert (incoming.status, incoming.body) == (302, b"\x1f\x8b\x08")
        assert (b"location", b"http://169.254.169.254/") in incoming.headers
        assert server.accepted == 1


async def test_interim_replies_are_skipped() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + reply(b"real"))

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post(hold=HOLD))
        assert (incoming.status, incoming.headers, incoming.body) == (200, [(b"content-length", b"4")], b"real")


@pytest.mark.parametrize(
    ("wire", "held"),
    [
        (reply(b"z" * 1000), True),
        (CHUNKED_HEAD + chunk(b"z" * 1000) + LAST_CHUNK, True),
        (reply(b"z" * 1001), False),
        (CHUNKED_HEAD + chunk(b"z" * 600) + chunk(b"z" * 600) + LAST_CHUNK, False),
        (EVENT_STREAM_HEAD + chunk(b"z" * 10) + LAST_CHUNK, False),
        (reply(b"", status="204 No Content"), True),
    ],
    ids=["length", "chunked", "length over", "chunked over", "event stream", "no body"],
)
async def test_what_is_held(wire: bytes, held: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for i in range(0, len(wire), 100):
            await peer.send(wire[i : i + 100])
            await asyncio.sleep(0)
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post(hold=1000))
        assert (incoming.body is not None) == held
        body = await read_all(incoming)
        assert body == b"z" * len(body)
        assert len(body) == wire.count(b"z")


async def test_held_reply_that_grows_flows_on_before_it_is_complete() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + chunk(b"x" * 999))
        await peer.send(chunk(b"y" * 2))
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post(hold=1000))
        assert incoming.body is None
        body = b""
        while len(body) < 1001:
            body += await incoming.next()
        assert body == b"x" * 999 + b"yy"
        incoming.close()


# The line.


async def test_500_calls_on_64_connections() -> None:
    async with raw_server(echo) as server, pool_for(server, PoolLimits(max_connections=64)) as pool:
        bodies = [b"%d" % i * (i % 50 + 1) for i in range(500)]
        replies = await asyncio.gather(*(pool.send(post(body, hold=HOLD)) for body in bodies))
        assert [r.body for r in replies] == bodies
        assert server.most_open == 64
        assert pool.stats == PoolStats(open=64, idle=64, waiting=0, opened=64)


async def test_line_is_first_in_first_out_and_bounded() -> None:
    order: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            order.append(request.body)
            await peer.send(reply())

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=1, max_waiting=5)) as pool:
        calls = [asyncio.ensure_future(pool.send(post(b"%d" % i, hold=HOLD))) for i in range(6)]
        await asyncio.sleep(0)
        assert pool.stats.waiting == 5
        with pytest.raises(UpstreamError, match="too many calls") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status) == (False, 503)
        await asyncio.gather(*calls)
        assert order == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_waiting_in_line_times_out() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await over.wait()
        await peer.send(reply())
        await peer.gone()

    over = asyncio.Event()
    async with (
        raw_server(script) as server,
        pool_for(server, PoolLimits(max_connections=1), Timeouts(queue=0.1, sweep=0.02)) as pool,
    ):
        first = asyncio.ensure_future(pool.send(post(hold=HOLD)))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="no connection became free") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status) == (False, 503)
        over.set()
        assert (await first).status == 200


async def test_failing_provider_lets_the_line_fail_one_by_one() -> None:
    async with raw_server(echo) as server:
        pass
    async with pool_for(server, PoolLimits(max_connections=2)) as pool:
        results = await asyncio.gather(*(pool.send(post()) for _ in range(10)), return_exceptions=True)
        assert [type(r) for r in results] == [UpstreamError] * 10
        assert pool.stats == PoolStats(open=0, idle=0, waiting=0, opened=0)


# Letting go.


@pytest.mark.parametrize("wire", [b"", CHUNKED_HEAD + chunk(b"x")])
async def test_cancelled_call_drops_its_connection(wire: bytes) -> None:
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)
        arrived.set()
        await peer.gone()

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=1)) as pool:
        call = asyncio.ensure_future(pool.send(post(hold=HOLD)))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert pool.stats.open == 0
        await settled(lambda: server.open == 0)


async def test_cancelled_next_loses_nothing() -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        await more.wait()
        await peer.send(chunk(b"whole") + LAST_CHUNK)
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(incoming.next(), 0.02)
        more.set()
        assert await read_all(incoming) == b"whole"
        assert pool.stats.idle == 1


async def test_close_drops_an_unfinished_reply_and_keeps_a_finished_one() -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.body == b"long":
                await peer.send(CHUNKED_HEAD + chunk(b"x"))
            else:
                await peer.send(reply(b"short"))

    async with raw_server(script) as server, pool_for(server) as pool:
        unread = await pool.send(post(b"short"))
        unread.close()
        unread.close()
        assert (pool.stats.open, pool.stats.idle) == (1, 1)
        incoming = await pool.send(post(b"long"))
        assert await incoming.next() == b"x"
        waiting = asyncio.ensure_future(incoming.next())
        await asyncio.sleep(0)
        incoming.close()
        incoming.close()
        with pytest.raises(UpstreamError, match="closed before its end"):
            await waiting
        assert pool.stats.open == 0
        await settled(lambda: server.open == 0)


async def test_cancellations_at_random_moments_leak_nothing() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.send(CHUNKED_HEAD)
            for _ in range(3):
                await asyncio.sleep(0)
                await peer.send(chunk(request.body))
            await peer.send(LAST_CHUNK)

    async def call(i: int) -> bool:
        body = b"%d" % i
        incoming = await pool.send(post(body, hold=rng.choice((0, HOLD))))
        try:
            return await read_all(incoming) == body * 3
        finally:
            incoming.close()

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=8)) as pool:
        calls = [asyncio.ensure_future(call(i)) for i in range(300)]
        for task in rng.sample(calls, 150):
            await asyncio.sleep(rng.choice((0, 0, 0.001)))
            task.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {r for r in results if not isinstance(r, asyncio.CancelledError)} <= {True}
        stats = pool.stats
        assert (stats.open, stats.waiting) == (stats.idle, 0)
        assert stats.open <= 8
        assert all(await asyncio.gather(*(call(i) for i in range(20))))
        await pool.aclose()
        await settled(lambda: server.open == 0)


async def test_aclose_ends_running_and_waiting_calls() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=1)) as pool:
        calls = [asyncio.ensure_future(pool.send(post())) for _ in range(2)]
        await settled(lambda: server.open == 1)
        await asyncio.sleep(0.02)
        await pool.aclose()
        await pool.aclose()
        running, waiting = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(running, UpstreamError)
        assert isinstance(waiting, UpstreamError)
        assert (running.sent, waiting.sent) == (True, False)
        with pytest.raises(UpstreamError, match="pool is closed"):
            await pool.send(post())
        await settled(lambda: server.open == 0)
        assert pool.stats.open == 0
