"""The upstream pool against raw servers on loopback, on both event loops: calls that go well."""

from __future__ import annotations

import asyncio

import pytest

from llmguard.forward.engine import Outgoing
from llmguard.forward.options import Origin
from llmguard.forward.pool import Pool, PoolStats
from tests.support.pool_calls import HOLD, echo, pool_for, post, read_all
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
