"""The upstream pool over TLS: whom it trusts, how it ends, and that it loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from llmguard.errors import UpstreamError
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.pool import Pool
from llmguard.forward.tls import client_context
from tests.support.pool_calls import HOLD, QUICK, echo, post, read_all, settled
from tests.support.raw_server import CHUNKED_HEAD, Peer, RawServer, chunk, raw_server, reply

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    certificate.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def served(authority: trustme.CA) -> ssl.SSLContext:
    return server_context(authority.issue_cert("localhost", "127.0.0.1"))


@contextlib.asynccontextmanager
async def tls_pool(
    server: RawServer, ca_file: Path | None, *, host: str = "localhost", timeouts: Timeouts = QUICK
) -> AsyncIterator[Pool]:
    context = client_context(str(ca_file) if ca_file else None)
    pool = Pool(Origin("https", host, server.port, internal=True), PoolLimits(max_connections=4), timeouts, context)
    async with contextlib.aclosing(pool):
        yield pool


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_trusted_certificate_and_keep_alive(ca_file: Path, served: ssl.SSLContext, host: str) -> None:
    async with raw_server(echo, served) as server, tls_pool(server, ca_file, host=host) as pool:
        for i in range(3):
            assert (await pool.send(post(b"%d" % i, hold=HOLD))).body == b"%d" % i
        assert (pool.stats.opened, pool.stats.idle) == (1, 1)


async def test_what_the_server_is_told(ca_file: Path, authority: trustme.CA) -> None:
    names: list[str | None] = []
    context = server_context(authority.issue_cert("localhost"))
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    agreed: list[tuple[str | None, str | None]] = []

    async def script(peer: Peer) -> None:
        tls = peer.writer.get_extra_info("ssl_object")
        agreed.append((tls.selected_alpn_protocol(), tls.version()))
        await echo(peer)

    async with raw_server(script, context) as server, tls_pool(server, ca_file) as pool:
        await pool.send(post(hold=HOLD))
    assert names == ["localhost"]
    assert agreed == [("http/1.1", "TLSv1.3")]


async def test_untrusted_authority(served: ssl.SSLContext) -> None:
    async with raw_server(echo, served) as server, tls_pool(server, None) as pool:
        with pytest.raises(UpstreamError, match="certificate that is not trusted") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status, pool.stats.open) == (False, 502, 0)
        await settled(lambda: server.open == 0)


async def test_wrong_host_name(ca_file: Path, authority: trustme.CA) -> None:
    context = server_context(authority.issue_cert("api.example.com"))
    async with raw_server(echo, context) as server, tls_pool(server, ca_file) as pool:
        with pytest.raises(UpstreamError, match="Hostname mismatch") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, pool.stats.open) == (False, 0)


async def test_expired_certificate(ca_file: Path, authority: trustme.CA) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    context = server_context(authority.issue_cert("localhost", not_after=past))
    async with raw_server(echo, context) as server, tls_pool(server, ca_file) as pool:
        with pytest.raises(UpstreamError, match="expired") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert not caught.value.sent


async def test_server_that_does_not_speak_tls(ca_file: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with raw_server(script) as server, tls_pool(server, ca_file) as pool:
        with pytest.raises(UpstreamError, match="TLS handshake") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status, pool.stats.open) == (False, 502, 0)


async def test_silent_handshake_times_out(ca_file: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with raw_server(script) as server, tls_pool(server, ca_file, timeouts=Timeouts(tls=0.1)) as pool:
        with pytest.raises(UpstreamError, match="did not finish the TLS handshake") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status, pool.stats.open) == (False, 504, 0)
        await settled(lambda: server.open == 0)


async def test_cancelled_handshake_frees_its_place(ca_file: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with raw_server(script) as server, tls_pool(server, ca_file) as pool:
        call = asyncio.ensure_future(pool.send(post(before_send=pytest.fail)))
        await settled(lambda: server.open == 1)
        assert pool.stats.open == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert pool.stats.open == 0
        await settled(lambda: server.open == 0)


async def test_body_until_the_end_needs_a_goodbye(ca_file: Path, served: ssl.SSLContext) -> None:
    """A TCP end may be forged; only close_notify says that a body without a length is whole."""

    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nas far as it goes")
        if request.body == b"cut":
            peer.cut()
            await peer.gone()

    async with raw_server(script, served) as server, tls_pool(server, ca_file) as pool:
        assert (await pool.send(post(b"whole", hold=HOLD))).body == b"as far as it goes"
        with pytest.raises(UpstreamError, match=r"broke the connection|goodbye") as caught:
            await read_all(await pool.send(post(b"cut")))
        assert caught.value.sent
        assert pool.stats.open == 0


@pytest.mark.parametrize("head", [b"content-length: 3000000", b"connection: close"])
async def test_slow_caller_loses_nothing(ca_file: Path, served: ssl.SSLContext, head: bytes) -> None:
    """The server is done and gone long before the caller has read; what lies in between must survive that."""
    body = b"0123456789" * 300_000

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        await peer.send(body)

    async with raw_server(script, served) as server, tls_pool(server, ca_file) as pool:
        incoming = await pool.send(post())
        received = b""
        while data := await incoming.next():
            assert len(data) <= 512 * 1024
            received += data
            await asyncio.sleep(0.03)
        assert received == body


async def test_end_of_the_connection_does_not_overtake_what_a_slow_caller_has_not_read(
    ca_file: Path, served: ssl.SSLContext
) -> None:
    paused = asyncio.Event()
    finished = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 50_000)
        await paused.wait()
        await peer.send(b"b" * 50_000)
        peer.writer.close()
        await asyncio.sleep(0.02)
        peer.cut()
        finished.set()
        await asyncio.sleep(0.1)

    async with raw_server(script, served) as server, tls_pool(server, ca_file) as pool:
        incoming = await pool.send(post())
        (connection,) = pool._connections
        await settled(lambda: not connection.silent)
        paused.set()
        await finished.wait()
        await asyncio.sleep(0.02)
        assert await read_all(incoming) == b"a" * 50_000 + b"b" * 50_000


async def test_large_body(ca_file: Path, served: ssl.SSLContext) -> None:
    body = b"0123456789" * 500_000
    async with raw_server(echo, served) as server, tls_pool(server, ca_file) as pool:
        assert await read_all(await pool.send(post(body))) == body
        assert pool.stats.idle == 1


async def test_stream_and_cancellation(ca_file: Path, served: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + chunk(b"one"))
        await peer.gone()

    async with raw_server(script, served) as server, tls_pool(server, ca_file) as pool:
        incoming = await pool.send(post())
        assert await incoming.next() == b"one"
        incoming.close()
        assert pool.stats.open == 0
        await settled(lambda: server.open == 0)


async def test_early_refusal(ca_file: Path, served: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"too large", status="413 Content Too Large"))
        await over.wait()

    over = asyncio.Event()
    async with raw_server(script, served) as server, tls_pool(server, ca_file) as pool:
        for _ in range(5):
            incoming = await pool.send(post(bytes(10 * 1024 * 1024), hold=HOLD))
            assert (incoming.status, incoming.body, pool.stats.open) == (413, b"too large", 0)
        over.set()


async def test_idle_connection_closed_by_the_server(ca_file: Path, served: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"%d" % peer.number))

    async with raw_server(script, served) as server, tls_pool(server, ca_file) as pool:
        for i in (1, 2):
            assert (await pool.send(post(hold=HOLD))).body == b"%d" % i
            await settled(lambda: pool.stats.open == 0)
