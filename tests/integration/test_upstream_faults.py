"""The upstream pool against servers that misbehave: broken replies, stale connections, silence."""

from __future__ import annotations

import asyncio

import pytest

from llmguard.errors import UpstreamError
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.pool import Pool
from tests.support.pool_calls import HOLD, QUICK, echo, pool_for, post, read_all, settled
from tests.support.raw_server import (
    CHUNKED_HEAD,
    EVENT_STREAM_HEAD,
    Peer,
    chunk,
    raw_server,
    reply,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


# What goes wrong.


@pytest.mark.parametrize("hold", [0, HOLD])
@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"", "ends before its head"),
        (b"HTTP/1.1 200 OK\r\nconte", "ends before its head"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "middle of its body"),
        (CHUNKED_HEAD + b"a\r\nhalf", "middle of its body"),
        (CHUNKED_HEAD + chunk(b"all but the end"), "middle of its body"),
        (CHUNKED_HEAD + b"zz\r\n", "chunk size"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "status 101"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "too large"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (b"SSH-2.0-x\r\n", "does not begin with HTTP/"),
    ],
)
async def test_broken_reply(wire: bytes, message: str, hold: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)

    async with raw_server(script) as server, pool_for(server) as pool:
        with pytest.raises(UpstreamError, match=message) as caught:
            await read_all(await pool.send(post(hold=hold)))
        assert (caught.value.sent, caught.value.status) == (True, 502)
        assert (pool.stats.open, pool.stats.idle) == (0, 0)


@pytest.mark.parametrize("wire", [b"", reply(b"x" * 10)[:-5], CHUNKED_HEAD + chunk(b"x"), b"HTTP/1.1 200 OK\r\n\r\nx"])
async def test_reset(wire: bytes) -> None:
    """Also a body without a length is not complete when the connection was reset."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)
        await seen.wait()
        peer.reset()

    async with raw_server(script) as server, pool_for(server) as pool:
        call = asyncio.ensure_future(pool.send(post()))
        await asyncio.sleep(0.02)
        seen.set()
        with pytest.raises(UpstreamError) as caught:
            await read_all(await call)
        assert (caught.value.sent, caught.value.status) == (True, 502)


async def test_what_arrived_before_the_fault_is_delivered_first() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENT_STREAM_HEAD + chunk(b"data: 1\n\n") + b"zz\r\n")

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post())
        assert await incoming.next() == b"data: 1\n\n"
        with pytest.raises(UpstreamError, match="chunk size"):
            await incoming.next()


async def test_second_reply_in_one_read_is_dropped_with_its_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"mine") + reply(b"another tenant's"))
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        for opened in (1, 2, 3):
            assert (await pool.send(post(hold=HOLD))).body == b"mine"
            assert (pool.stats.open, pool.stats.opened) == (0, opened)


async def test_bytes_on_an_idle_connection_drop_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"mine"))
        await asyncio.sleep(0.02)
        await peer.send(reply(b"another tenant's"))
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        assert (await pool.send(post(hold=HOLD))).body == b"mine"
        await settled(lambda: pool.stats.open == 0)
        assert (await pool.send(post(hold=HOLD))).body == b"mine"
        assert pool.stats.opened == 2


# Stale connections: a call is never sent twice.


async def test_connection_closed_while_idle_is_replaced_unnoticed() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"%d" % peer.number))

    sent: list[int] = []
    async with raw_server(script) as server, pool_for(server) as pool:
        for i in (1, 2, 3):
            assert (await pool.send(post(hold=HOLD, before_send=lambda i=i: sent.append(i)))).body == b"%d" % i
            await settled(lambda: pool.stats.open == 0)
    assert sent == [1, 2, 3]


async def test_end_that_the_loop_has_not_seen_is_found_before_writing() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"%d" % peer.number))
        if peer.number == 1:
            await close.wait()

    close = asyncio.Event()
    async with raw_server(script) as server, pool_for(server) as pool:
        assert (await pool.send(post(hold=HOLD))).body == b"1"
        await asyncio.sleep(0.1)
        (connection,) = pool._connections
        connection._transport.pause_reading()  # As if the loop were late.
        close.set()
        await settled(connection._peer_spoke)
        assert not connection.gone
        assert (await pool.send(post(hold=HOLD))).body == b"2"


async def test_connection_closed_after_writing_is_an_error_and_not_a_second_request() -> None:
    requests = 0

    async def script(peer: Peer) -> None:
        nonlocal requests
        await peer.request()
        requests += 1
        await peer.send(reply())
        await peer.request()
        requests += 1

    async with raw_server(script) as server, pool_for(server) as pool:
        await pool.send(post(hold=HOLD))
        with pytest.raises(UpstreamError, match="ends before its head") as caught:
            await pool.send(post(hold=HOLD))
        assert caught.value.sent
        assert (requests, server.accepted) == (2, 1)


async def test_refused_connection_was_not_sent() -> None:
    async with raw_server(echo) as server:
        pass
    async with pool_for(server) as pool:
        with pytest.raises(UpstreamError, match="cannot be reached") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status, pool.stats.open) == (False, 502, 0)


async def test_private_address_is_refused_unless_internal() -> None:
    async with raw_server(echo) as server:
        for host in ("127.0.0.1", "localhost"):
            pool = Pool(Origin("http", host, server.port), None, QUICK)
            with pytest.raises(UpstreamError, match="no public address") as caught:
                await pool.send(post(before_send=pytest.fail))
            assert (caught.value.sent, pool.stats.open) == (False, 0)
            await pool.aclose()
        assert server.accepted == 0


# Time.


async def test_slow_head_times_out() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(script) as server, pool_for(server, timeouts=Timeouts(first_byte=0.1, sweep=0.02)) as pool:
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamError, match="did not begin to reply") as caught:
            await pool.send(post())
        took = asyncio.get_running_loop().time() - began
        assert (caught.value.sent, caught.value.status) == (True, 504)
        assert 0.1 <= took < 1
        await settled(lambda: server.open == 0)
        assert pool.stats.open == 0


async def test_head_that_drips_in_has_one_limit() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: ")
        while True:
            await peer.send(b"y")
            await asyncio.sleep(0.01)

    async with raw_server(script) as server, pool_for(server, timeouts=Timeouts(first_byte=0.15, sweep=0.02)) as pool:
        with pytest.raises(UpstreamError, match="did not begin to reply") as caught:
            await pool.send(post())
        assert (caught.value.sent, caught.value.status) == (True, 504)


async def test_silence_in_a_body_times_out_but_slow_bytes_do_not() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        for _ in range(10):
            await peer.send(chunk(b"x"))
            await asyncio.sleep(0.04)
        await peer.gone()

    async with raw_server(script) as server, pool_for(server, timeouts=Timeouts(silence=0.15, sweep=0.02)) as pool:
        incoming = await pool.send(post())
        received = b""

        async def collect() -> None:
            nonlocal received
            while True:
                received += await incoming.next()

        with pytest.raises(UpstreamError, match="fell silent") as caught:
            await collect()
        assert (received, caught.value.status) == (b"x" * 10, 504)


async def test_total_time_is_limited() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        while True:
            await peer.send(chunk(b"x"))
            await asyncio.sleep(0.01)

    async with raw_server(script) as server, pool_for(server, timeouts=Timeouts(total=0.2, sweep=0.02)) as pool:
        incoming = await pool.send(post())
        with pytest.raises(UpstreamError, match="total time limit") as caught:
            await read_all(incoming)
        assert (caught.value.sent, caught.value.status) == (True, 504)


async def test_provider_that_does_not_read_times_out() -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await over.wait()

    over = asyncio.Event()
    async with raw_server(script) as server, pool_for(server, timeouts=Timeouts(write=0.1, sweep=0.02)) as pool:
        with pytest.raises(UpstreamError, match="stopped reading") as caught:
            await pool.send(post(bytes(20 * 1024 * 1024)))
        assert (caught.value.sent, caught.value.status, pool.stats.open) == (True, 504, 0)
        over.set()


async def test_idle_connection_expires() -> None:
    async with raw_server(echo) as server, pool_for(server, PoolLimits(keep_alive=0.1)) as pool:
        await asyncio.gather(*(pool.send(post(hold=HOLD)) for _ in range(3)))
        assert pool.stats.idle == 3
        await settled(lambda: pool.stats.open == 0)
        await settled(lambda: server.open == 0)
        assert pool._sweep_timer is None
        assert (await pool.send(post(b"again", hold=HOLD))).body == b"again"
