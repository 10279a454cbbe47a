"""The upstream pool for threads, against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from llmguard.errors import UpstreamError
from llmguard.forward.blocking.engine import CallerGone, Incoming
from llmguard.forward.blocking.pool import BlockingPool
from llmguard.forward.engine import Outgoing
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.tls import client_context
from tests.support.pool_calls import HOLD, echo, post
from tests.support.raw_server import (
    CHUNKED_HEAD,
    EVENT_STREAM_HEAD,
    LAST_CHUNK,
    Peer,
    RawServer,
    chunk,
    raw_server,
    reply,
)

pytestmark = pytest.mark.anyio
QUICK = Timeouts(connect=5, tls=5, queue=5, write=5, first_byte=5, silence=5, total=20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Browser:
    """The caller's end and ours of a connection: hang up with ``leave``."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def fileno(self) -> int:
        return self.near.fileno()

    def gone(self) -> bool:
        return self.near.recv(1, socket.MSG_PEEK) == b""

    def leave(self) -> None:
        self.far.close()

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@contextmanager
def pool_for(server: RawServer, limits: PoolLimits | None = None, timeouts: Timeouts = QUICK) -> Iterator[BlockingPool]:
    pool = BlockingPool(Origin("http", "127.0.0.1", server.port, internal=True), limits, timeouts)
    try:
        yield pool
    finally:
        pool.close()


def read_all(incoming: Incoming) -> bytes:
    if incoming.body is not None:
        return incoming.body
    body = b""
    while data := incoming.next():
        body += data
    return body


async def call(pool: BlockingPool, request: Outgoing, browser: Browser | None = None) -> bytes:
    def run() -> bytes:
        with closing(pool.send(request, browser)) as incoming:
            return read_all(incoming)

    return await asyncio.to_thread(run)


async def test_calls_one_after_another_share_a_connection() -> None:
    async with raw_server(echo) as server:
        with pool_for(server) as pool:
            for body in (b"1", b"2" * 300_000, b"3"):
                assert await call(pool, post(body, hold=HOLD)) == body
        assert server.accepted == 1


async def test_threads_have_connections_of_their_own() -> None:
    gate = asyncio.Event()
    arrived = 0

    async def script(peer: Peer) -> None:
        nonlocal arrived
        request = await peer.request()
        arrived += 1
        if arrived == 4:
            gate.set()
        await gate.wait()
        await peer.send(reply(request.body))

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            bodies = [b"%d" % i for i in range(4)]
            assert await asyncio.gather(*[call(pool, post(body)) for body in bodies]) == bodies
        assert server.most_open == 4


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
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "too large"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (b"SSH-2.0-x\r\n", "does not begin with HTTP/"),
    ],
)
async def test_a_broken_reply_is_an_error_and_its_connection_is_dropped(wire: bytes, message: str, hold: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            for _ in range(2):
                with pytest.raises(UpstreamError, match=message) as caught:
                    await call(pool, post(hold=hold))
                assert (caught.value.sent, caught.value.status) == (True, 502)
        assert server.accepted == 2


async def test_bytes_before_the_fault_are_handed_on() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENT_STREAM_HEAD + chunk(b"data: 1\n\n") + b"zz\r\n")

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            incoming = await asyncio.to_thread(pool.send, post(), None)
            assert await asyncio.to_thread(incoming.next) == b"data: 1\n\n"
            with pytest.raises(UpstreamError, match="chunk size"):
                await asyncio.to_thread(incoming.next)
            incoming.close()


async def test_a_connection_that_the_peer_closed_or_spoke_on_is_not_used_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"%d" % peer.number))
        if peer.number == 2:
            await peer.send(b"HTTP/1.1 408 Late\r\n\r\n")
            await peer.gone()

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            assert await call(pool, post()) == b"1"
            while server.open:
                await asyncio.sleep(0.002)
            assert await call(pool, post()) == b"2"
            await asyncio.sleep(0.05)
            assert await call(pool, post()) == b"3"


async def test_a_stream_arrives_chunk_by_chunk() -> None:
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENT_STREAM_HEAD + chunk(b"data: 1\n\n"))
        await seen.wait()
        await peer.send(chunk(b"data: 2\n\n") + LAST_CHUNK)

    def read(pool: BlockingPool) -> list[bytes]:
        incoming = pool.send(post(hold=HOLD), None)
        chunks = [incoming.next()]
        loop.call_soon_threadsafe(seen.set)
        while data := incoming.next():
            chunks.append(data)
        return chunks

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            assert await asyncio.to_thread(read, pool) == [b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.parametrize(
    ("sent", "words"), [(b"", "did not begin to reply"), (EVENT_STREAM_HEAD + chunk(b"data: 1\n\n"), "fell silent")]
)
async def test_a_silent_provider_is_given_up(sent: bytes, words: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.gone()

    timeouts = Timeouts(first_byte=0.1, silence=0.1)
    async with raw_server(script) as server:
        with pool_for(server, timeouts=timeouts) as pool, pytest.raises(UpstreamError, match=words) as caught:
            await call(pool, post())
        assert (caught.value.sent, caught.value.status) == (True, 504)


@pytest.mark.parametrize("sent", [b"", EVENT_STREAM_HEAD + chunk(b"data: 1\n\n")], ids=["no head", "mid-stream"])
async def test_a_caller_who_leaves_is_noticed_while_the_provider_is_silent(sent: bytes, browser: Browser) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        browser.leave()
        await peer.gone()
        closed.set()

    def run(pool: BlockingPool) -> None:
        with closing(pool.send(post(), browser)) as incoming:
            read_all(incoming)

    async with raw_server(script) as server, asyncio.timeout(5):
        with pool_for(server) as pool, pytest.raises(CallerGone):
            await asyncio.to_thread(run, pool)
        await closed.wait()


async def test_a_pipelined_request_is_no_hang_up(browser: Browser) -> None:
    browser.far.send(b"GET / HTTP/1.1\r\n")

    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.05)
        await peer.send(reply(b"still here"))

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            assert await call(pool, post(), browser) == b"still here"


async def test_an_answer_before_the_whole_request_was_heard_is_read() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"too large", status="413 Too Large"))
        await asyncio.sleep(0.2)

    def run(pool: BlockingPool) -> tuple[int, bytes]:
        incoming = pool.send(post(b"x" * 30_000_000, hold=HOLD), None)
        return incoming.status, read_all(incoming)

    async with raw_server(script) as server:
        with pool_for(server) as pool:
            assert await asyncio.to_thread(run, pool) == (413, b"too large")


async def test_what_stops_before_sending_leaves_the_connection_good() -> None:
    def refuse() -> None:
        raise KeyError("full")

    async with raw_server(echo) as server:
        with pool_for(server) as pool:
            assert await call(pool, post(b"1")) == b"1"
            with pytest.raises(KeyError):
                await call(pool, post(before_send=refuse))
            assert await call(pool, post(b"2")) == b"2"
        assert server.accepted == 1


async def test_a_full_pool_makes_calls_wait_and_a_full_line_turns_them_away() -> None:
    release = threading.Event()

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await asyncio.to_thread(release.wait, 5)
            await peer.send(reply(request.body))

    async with raw_server(script) as server:
        with pool_for(server, PoolLimits(max_connections=1, max_waiting=1)) as pool:
            first = asyncio.create_task(call(pool, post(b"1")))
            while not server.accepted:
                await asyncio.sleep(0.002)
            second = asyncio.create_task(call(pool, post(b"2")))
            while pool._waiting is not None and pool._waiting._value:
                await asyncio.sleep(0.002)
            with pytest.raises(UpstreamError, match="too many calls wait") as caught:
                await call(pool, post(b"3"))
            assert (caught.value.sent, caught.value.status) == (False, 503)
            release.set()
            assert (await first, await second) == (b"1", b"2")
        assert server.most_open == 1


async def test_nobody_there_and_nobody_allowed() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for internal, words in ((True, "cannot be reached"), (False, "no public address")):
        pool = BlockingPool(Origin("http", "127.0.0.1", port, internal=internal), None, QUICK)
        with pytest.raises(UpstreamError, match=words) as caught:
            await call(pool, post())
        assert (caught.value.sent, caught.value.status) == (False, 502)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def tls_pool(server: RawServer, path: Path | None, host: str = "localhost") -> Iterator[BlockingPool]:
    context = client_context(str(path) if path else None)
    pool = BlockingPool(Origin("https", host, server.port, internal=True), None, QUICK, context)
    try:
        yield pool
    finally:
        pool.close()


def served(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_tls_carries_large_bodies_both_ways_and_keeps_the_connection(
    authority: trustme.CA, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    async with raw_server(echo, served(authority, "localhost")) as server:
        with tls_pool(server, path) as pool:
            for body in (b"small", b"y" * 3_000_000, b"again"):
                assert await call(pool, post(body, hold=HOLD)) == body
        assert server.accepted == 1


async def test_a_certificate_for_somebody_else_or_from_nobody_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    async with raw_server(echo, served(authority, "elsewhere.example")) as server:
        for trusted in (path, None):
            with tls_pool(server, trusted) as pool, pytest.raises(UpstreamError, match="not trusted") as caught:
                await call(pool, post())
            assert not caught.value.sent


async def test_a_body_that_ends_without_the_goodbye_of_tls_is_broken(authority: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it?")
        peer.cut()
        with suppress(ssl.SSLError):
            await peer.gone()

    async with raw_server(script, served(authority, "localhost")) as server:
        with tls_pool(server, path) as pool, pytest.raises(UpstreamError, match="broke the connection"):
            await call(pool, post())
