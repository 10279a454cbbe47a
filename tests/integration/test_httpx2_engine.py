"""The second engine: the same contract through an outbound proxy and by HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Outgoing
from llmguard.forward.httpx2_engine import Httpx2Engine
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.tls import new_client_context
from tests.support.h2_server import H2Reply, H2Request, h2_server
from tests.support.pool_calls import HOLD, echo, post, read_all, settled
from tests.support.raw_server import CHUNKED_HEAD, EVENT_STREAM_HEAD, LAST_CHUNK, Peer, chunk, raw_server, reply

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


@pytest.fixture(scope="module")
def served(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("localhost").configure_cert(context)
    return context


@contextlib.asynccontextmanager
async def engine_for(
    port: int,
    *,
    scheme: str = "http",
    host: str = "localhost",
    internal: bool = True,
    ca_file: Path | None = None,
    limits: PoolLimits | None = None,
    timeouts: Timeouts | None = None,
    proxy: str | None = None,
    http2: bool = False,
) -> AsyncIterator[Httpx2Engine]:
    origin = Origin(scheme, host, port, internal=internal)
    context = new_client_context(str(ca_file) if ca_file else None)
    async with contextlib.aclosing(Httpx2Engine(origin, limits, timeouts, context, proxy=proxy, http2=http2)) as engine:
        yield engine


# The contract, as the pool keeps it.


async def test_request_on_the_wire() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            seen.append(request.head + request.body)
            await peer.send(reply(b"ok", "x-a: 1", "X-A: 2"))

    order: list[str] = []
    async with raw_server(script) as server, engine_for(server.port) as engine:
        for _ in range(2):
            incoming = await engine.send(post(b'{"a":1}', hold=HOLD, before_send=lambda: order.append("before")))
            assert (incoming.status, incoming.body) == (200, b"ok")
            assert incoming.headers == [(b"content-length", b"2"), (b"x-a", b"1"), (b"x-a", b"2")]
        assert server.accepted == 1
    assert order == ["before", "before"]
    lines = seen[0].split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:-2]) == [
        b"content-length: 7",
        b"content-type: application/json",
        b"host: localhost:%d" % server.port,
    ]
    assert lines[-1] == b'{"a":1}'


async def test_target_is_sent_as_it_is() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(reply(request.line))

    async with raw_server(script) as server, engine_for(server.port) as engine:
        target = b"/v1/models/a%2Fb:generate?x=%20&alt=sse"
        incoming = await engine.send(Outgoing("GET", target, [], b"", lambda: None, HOLD))
        assert incoming.body == b"GET " + target + b" HTTP/1.1"


async def test_streams_redirects_codings_and_cookies_pass() -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            heads.append(request.head)
            if request.body == b"stream":
                await peer.send(EVENT_STREAM_HEAD + chunk(b"data: 1\n\n"))
                await peer.send(chunk(b"data: 2\n\n") + LAST_CHUNK)
            else:
                fields = ("content-encoding: gzip", "location: /elsewhere", "set-cookie: tenant=1")
                await peer.send(reply(b"\x1f\x8b", *fields, status="307 Temporary Redirect"))

    async with raw_server(script) as server, engine_for(server.port) as engine:
        incoming = await engine.send(post(b"stream", hold=HOLD))
        assert incoming.body is None
        assert await read_all(incoming) == b"data: 1\n\ndata: 2\n\n"
        for _ in range(2):
            incoming = await engine.send(post(b"other", hold=HOLD))
            assert (incoming.status, incoming.body) == (307, b"\x1f\x8b")
        assert server.accepted == 1
    assert all(b"cookie" not in head.lower() for head in heads)


async def test_before_send_that_raises() -> None:
    async with raw_server(echo) as server, engine_for(server.port) as engine:

        def refuse() -> None:
            raise OSError("spool")

        with pytest.raises(OSError, match="spool"):
            await engine.send(post(before_send=refuse))
        assert (await engine.send(post(b"after", hold=HOLD))).body == b"after"


async def test_unsafe_request() -> None:
    async with engine_for(1) as engine:
        with pytest.raises(ValueError, match="line break"):
            await engine.send(post(headers=[(b"x", b"y\r\nz: 1")], before_send=pytest.fail))


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"", "disconnected"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "peer closed"),
        (CHUNKED_HEAD + b"a\r\nhalf", "peer closed"),
        (b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "SWITCH_UPGRADE"),
        (b"nonsense\r\n\r\n", "status line"),
    ],
)
@pytest.mark.parametrize("hold", [0, HOLD])
async def test_broken_reply(wire: bytes, message: str, hold: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)

    async with raw_server(script) as server, engine_for(server.port) as engine:
        with pytest.raises(UpstreamError, match=message) as caught:
            await read_all(await engine.send(post(hold=hold)))
        assert (caught.value.sent, caught.value.status) == (True, 502)


async def test_unreachable_and_refused_addresses() -> None:
    async with raw_server(echo) as server, engine_for(server.port, internal=False) as engine:
        with pytest.raises(UpstreamError, match="no public address") as caught:
            await engine.send(post(before_send=pytest.fail))
        assert (caught.value.sent, server.accepted) == (False, 0)
    async with engine_for(server.port) as engine:
        with pytest.raises(UpstreamError) as caught:
            await engine.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status) == (False, 502)


@pytest.mark.parametrize(
    ("timeouts", "wire"),
    [
        (Timeouts(first_byte=0.1), b""),
        (Timeouts(silence=0.1), CHUNKED_HEAD + chunk(b"x")),
        (Timeouts(total=0.1), CHUNKED_HEAD + chunk(b"x")),
    ],
)
async def test_timeouts(timeouts: Timeouts, wire: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)
        await peer.gone()

    async with raw_server(script) as server, engine_for(server.port, timeouts=timeouts) as engine:
        with pytest.raises(UpstreamError, match="took too long") as caught:
            await read_all(await engine.send(post()))
        assert (caught.value.sent, caught.value.status) == (True, 504)
        await settled(lambda: server.open == 0)


async def test_too_many_calls_and_too_long_a_line() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    limits, timeouts = PoolLimits(max_connections=1, max_waiting=1), Timeouts(queue=0.1)
    async with raw_server(script) as server, engine_for(server.port, limits=limits, timeouts=timeouts) as engine:
        first = asyncio.ensure_future(engine.send(post()))
        await settled(lambda: server.open == 1)
        second = asyncio.ensure_future(engine.send(post(before_send=pytest.fail)))
        await asyncio.sleep(0)
        for call in (second, engine.send(post(before_send=pytest.fail))):
            with pytest.raises(UpstreamError) as caught:
                await call
            assert (caught.value.sent, caught.value.status) == (False, 503)
        first.cancel()


async def test_slow_caller_pauses_the_provider() -> None:
    total, accepted = 20_000_000, 0

    async def script(peer: Peer) -> None:
        nonlocal accepted
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _ in range(total // 50_000):
            await peer.send(b"x" * 50_000)
            accepted += 50_000

    async with raw_server(script) as server, engine_for(server.port, timeouts=Timeouts(silence=0.1)) as engine:
        incoming = await engine.send(post())
        last = -1
        while accepted != last:
            last = accepted
            await asyncio.sleep(0.3)
        assert accepted < total // 2
        assert len(await read_all(incoming)) == total


async def test_cancelled_and_closed_calls_drop_their_connection() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(CHUNKED_HEAD + chunk(b"x") if request.body == b"stream" else b"")
        await peer.gone()

    async with raw_server(script) as server, engine_for(server.port) as engine:
        call = asyncio.ensure_future(engine.send(post()))
        await settled(lambda: server.open == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await settled(lambda: server.open == 0)
        incoming = await engine.send(post(b"stream"))
        assert await incoming.next() == b"x"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(incoming.next(), 0.02)
        incoming.close()
        incoming.close()
        await settled(lambda: server.open == 0)
        await engine.aclose()
        with pytest.raises(UpstreamError, match="engine is closed"):
            await engine.send(post())


# Proxies.


async def proxy_script(peer: Peer) -> None:
    """A proxy that wants a password; a tunnel for CONNECT, an answer of its own for everything else."""
    head = await peer.head()
    if b"proxy-authorization: basic dTpw" not in head.replace(
        b"Proxy-Authorization: Basic", b"proxy-authorization: basic"
    ):
        await peer.send(reply(b"", status="407 Proxy Authentication Required"))
        return
    method, target, _ = head.split(b"\r\n")[0].split(b" ")
    if method != b"CONNECT":
        await peer.send(reply(b"by proxy: " + target))
        return
    reader, writer = await asyncio.open_connection("127.0.0.1", int(target.rpartition(b":")[2]))
    await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    try:
        await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer))
    finally:
        writer.close()


async def test_tunnel(ca_file: Path, served: ssl.SSLContext) -> None:
    order: list[str] = []
    async with raw_server(echo, served) as server, raw_server(proxy_script) as proxy:
        url = f"http://u:p@127.0.0.1:{proxy.port}"
        async with engine_for(server.port, scheme="https", ca_file=ca_file, proxy=url) as engine:
            for i in range(2):
                before = lambda: order.append("before")  # noqa: E731
                assert (await engine.send(post(b"%d" % i, hold=HOLD, before_send=before))).body == b"%d" % i
        assert (proxy.accepted, server.accepted, order) == (1, 1, ["before", "before"])


async def test_forward_proxy_and_names_that_only_it_knows() -> None:
    async with raw_server(proxy_script) as proxy:
        url = f"http://u:p@127.0.0.1:{proxy.port}"
        async with engine_for(80, host="provider.invalid", internal=False, proxy=url) as engine:
            incoming = await engine.send(post(hold=HOLD))
            assert incoming.body == b"by proxy: http://provider.invalid/v1/x"
        async with engine_for(80, host="169.254.169.254", internal=False, proxy=url) as engine:
            with pytest.raises(UpstreamError, match="not a public address"):
                await engine.send(post(before_send=pytest.fail))


async def test_proxy_that_refuses(ca_file: Path) -> None:
    async with raw_server(proxy_script) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with engine_for(443, scheme="https", ca_file=ca_file, proxy=url) as engine:
            with pytest.raises(UpstreamError, match="407") as caught:
                await engine.send(post(before_send=pytest.fail))
            assert (caught.value.sent, caught.value.status) == (False, 502)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with raw_server(echo) as server, engine_for(server.port) as engine:
        assert (await engine.send(post(b"direct", hold=HOLD))).body == b"direct"


# TLS and HTTP/2.


async def test_untrusted_certificate(served: ssl.SSLContext) -> None:
    async with raw_server(echo, served) as server, engine_for(server.port, scheme="https") as engine:
        with pytest.raises(UpstreamError, match="certificate") as caught:
            await engine.send(post(before_send=pytest.fail))
        assert caught.value.sent is False


async def test_pinned_address_keeps_the_name_for_the_certificate(ca_file: Path, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example.com").configure_cert(context)
    async with (
        raw_server(echo, context) as server,
        engine_for(server.port, scheme="https", ca_file=ca_file) as engine,
    ):
        with pytest.raises(UpstreamError, match="Hostname mismatch"):
            await engine.send(post(before_send=pytest.fail))


async def test_http2_multiplexes(ca_file: Path, served: ssl.SSLContext) -> None:
    def answer(request: H2Request) -> H2Reply:
        assert request.fields[b":path"] == b"/v1/x"
        assert request.fields[b":authority"] == b"localhost:%d" % server.port
        assert request.fields[b"content-length"] == b"%d" % len(request.body)
        return H2Reply([(b":status", b"200"), (b"x-a", b"1")], [request.body, b"!"])

    sent: list[int] = []
    async with (
        h2_server(answer, served) as server,
        engine_for(server.port, scheme="https", ca_file=ca_file, http2=True) as engine,
    ):
        first = await engine.send(post(b"0", hold=HOLD))
        assert (first.status, first.headers, first.body) == (200, [(b"x-a", b"1")], b"0!")
        calls = [engine.send(post(b"%d" % i, hold=HOLD, before_send=lambda i=i: sent.append(i))) for i in range(50)]
        replies = await asyncio.gather(*calls)
        assert [r.body for r in replies] == [b"%d!" % i for i in range(50)]
        assert (server.accepted, sorted(sent)) == (1, list(range(50)))
        streamed = await engine.send(post(b"x" * 100_000))
        assert await read_all(streamed) == b"x" * 100_000 + b"!"


async def test_http2_is_not_forced_on_a_server_without_it(ca_file: Path, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    authority.issue_cert("localhost").configure_cert(context)
    async with (
        raw_server(echo, context) as server,
        engine_for(server.port, scheme="https", ca_file=ca_file, http2=True) as engine,
    ):
        assert (await engine.send(post(b"one", hold=HOLD))).body == b"one"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (H2Reply([(b":status", b"200"), (b"x-a", b"1\r\nx-b: 2")]), "line break or NUL"),
        (H2Reply([(b":status", b"200"), (b"x\0y", b"1")]), "line break or NUL"),
        (H2Reply([(b":status", b"two")]), "invalid literal"),
        (H2Reply([(b":status", b"600")]), "status 600"),
        (H2Reply([(b":status", b"200")], [b"half"], reset=True), "StreamReset"),
        (H2Reply([(b":status", b"200"), (b"content-length", b"9")], [b"half"]), "InvalidBodyLength"),
    ],
)
async def test_http2_broken_reply(ca_file: Path, served: ssl.SSLContext, answer: H2Reply, message: str) -> None:
    async with (
        h2_server(lambda _: answer, served) as server,
        engine_for(server.port, scheme="https", ca_file=ca_file, http2=True) as engine,
    ):
        with pytest.raises(UpstreamError, match=message) as caught:
            await read_all(await engine.send(post()))
        assert (caught.value.sent, caught.value.status) == (True, 502)


async def test_http2_silence_ends_one_call_and_not_its_neighbours(ca_file: Path, served: ssl.SSLContext) -> None:
    def answer(request: H2Request) -> H2Reply | None:
        return None if request.body == b"silent" else H2Reply([(b":status", b"200")], [b"ok"])

    timeouts = Timeouts(first_byte=0.2)
    async with (
        h2_server(answer, served) as server,
        engine_for(server.port, scheme="https", ca_file=ca_file, http2=True, timeouts=timeouts) as engine,
    ):
        assert (await engine.send(post(hold=HOLD))).body == b"ok"
        silent = asyncio.ensure_future(engine.send(post(b"silent", hold=HOLD)))
        for _ in range(5):
            assert (await engine.send(post(hold=HOLD))).body == b"ok"
            await asyncio.sleep(0.01)
        with pytest.raises(UpstreamError, match="took too long") as caught:
            await silent
        assert (caught.value.sent, caught.value.status) == (True, 504)
        assert (await engine.send(post(hold=HOLD))).body == b"ok"
        assert server.accepted == 1
