"""The server protocol against a transport in memory: every cut, every refusal, every framing, every time limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.server import ServerState

from llmguard.proxy import protocol
from llmguard.proxy.protocol import HttpProtocol

App = Callable[[Any, Any, Any], Awaitable[None]]
DATE = b"date: Tue, 24 Nov 2026 10:00:00 GMT\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written. The peer reads everything at once unless ``held`` says how much it leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""
        self.paused = False
        self.held = 0

    def write(self, data: Any) -> None:
        assert not self.ended, "written after the end"
        self.written += data

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "half-closed"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.held


class Caller:
    """One connection to an application, in memory."""

    def __init__(self, app: App, root_path: str = "") -> None:
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"Tue, 24 Nov 2026 10:00:00 GMT")]
        config: Any = SimpleNamespace(loaded_app=app, root_path=root_path, timeout_keep_alive=75)
        self.protocol = HttpProtocol(config, self.state, {}, asyncio.get_running_loop())
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    async def send(self, *parts: bytes) -> bytes:
        """Send parts, one read each; returns what came back since the last time."""
        for part in parts:
            self.protocol.data_received(part)
            await settle()
        return self.take()

    def take(self) -> bytes:
        written, self.wire.written = self.wire.written, b""
        return written

    async def wait(self, seconds: int) -> bytes:
        for _ in range(seconds):
            self.protocol.sweep()
        await settle()
        return self.take()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def read_body(receive: Any) -> bytes:
    body, message = b"", {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


class Echo:
    """Answers with the request's body; keeps scopes and bodies."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Any], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        self.seen.append((scope, body))
        await send(start((b"content-length", b"%d" % len(body))))
        await send({"type": "http.response.body", "body": body})


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


NOTHING = (b"content-length", b"0")
END = part(b"", more=False)


def says(*messages: dict[str, Any]) -> App:
    """An application that sends these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """An application that waits for the end of the exchange."""
    while (await receive())["type"] != "http.disconnect":
        pass


def ok(body: bytes, *lines: bytes) -> bytes:
    return b"".join([b"HTTP/1.1 200 OK\r\n", DATE, b"content-length: %d\r\n" % len(body), *lines, b"\r\n", body])


def fault_code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"content-length: %d" % len(body) in head
    return int(head[9:12]), json.loads(body)["error"]["code"]


# Requests.

CUTS = {
    "get": (GET, [("GET", b"/x", b"")], ok(b"")),
    "length": (POST, [("POST", b"/x", b"hello")], ok(b"hello")),
    "chunked": (
        b"POST /c?q=%20 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        [("POST", b"/c", b"hello")],
        ok(b"hello"),
    ),
    "trailers": (
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nHost: b\r\nX: y\r\n\r\n",
        [("POST", b"/c", b"x")],
        ok(b"x", b"connection: close\r\n"),
    ),
    "two": (POST + GET, [("POST", b"/x", b"hello"), ("GET", b"/x", b"")], ok(b"hello") + ok(b"")),
    "blank lines first": (b"\r\n\r\n" + GET, [("GET", b"/x", b"")], ok(b"")),
    "close": (
        b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi" + GET,
        [("POST", b"/x", b"hi")],
        ok(b"hi", b"connection: close\r\n"),
    ),
    "1.0": (b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n", [("GET", b"/x", b"")], ok(b"", b"connection: close\r\n")),
    "absolute": (b"GET http://A/x HTTP/1.1\r\nHost: a\r\n\r\n", [("GET", b"/x", b"")], ok(b"")),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_request_is_read_alike_however_its_bytes_are_cut(name: str) -> None:
    data, requests, answers = CUTS[name]

    async def run(*parts: bytes) -> None:
        echo = Echo()
        caller = Caller(echo)
        assert await caller.send(*parts) == answers
        assert [(s["method"], s["raw_path"], body) for s, body in echo.seen] == requests
        assert all(dict(scope["headers"])[b"host"] == b"a" for scope, _ in echo.seen)
        assert caller.state.total_requests == len(requests)
        assert caller.state.tasks == set()

    async def every_cut() -> None:
        await run(data)
        await run(*(data[i : i + 1] for i in range(len(data))))
        for cut in range(1, len(data)):
            await run(data[:cut], data[cut:])

    asyncio.run(every_cut())


def test_the_scope_has_everything_of_asgi_and_the_path_as_it_came() -> None:
    async def run() -> None:
        echo = Echo()
        await Caller(echo, root_path="/base").send(
            b"PUT /a%2Fb/%C3%A9?x=%41&y HTTP/1.1\r\nHOST: a\r\nX-One: 1 \r\nX-One: \t2\r\nx-high: \xe9\r\n\r\n"
        )
        ((scope, body),) = echo.seen
        assert body == b""
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": "PUT",
            "path": "/base/a/b/é",
            "raw_path": b"/base/a%2Fb/%C3%A9",
            "query_string": b"x=%41&y",
            "root_path": "/base",
            "headers": [(b"host", b"a"), (b"x-one", b"1"), (b"x-one", b"2"), (b"x-high", b"\xe9")],
            "extensions": {"llmguard.head": {}},
            "state": {},
            "client": None,
            "server": None,
        }

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400, "bad_request"),
        (b"hello\r\n\r\n", 400, "bad_request"),
        (b"get / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/0.9\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/1.2\r\n\r\n", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nX: a\x00\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\nx", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\nx", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_framing"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", 400, "bad_request"),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400, "upgrade_refused"),
        (
            b"POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 99\r\n\r\n" + GET,
            400,
            "upgrade_refused",
        ),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
        (b"GET http://a/ HTTP/1.1\r\n\r\n", 400, "bad_target"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_target"),
        (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    ],
)
def test_what_is_not_plain_http_is_refused_and_reaches_no_application(data: bytes, status: int, code: str) -> None:
    async def run(*parts: bytes) -> None:
        echo = Echo()
        caller = Caller(echo)
        assert fault_code(await caller.send(*parts)) == (status, code)
        assert echo.seen == []
        assert caller.wire.ended == "half-closed"
        assert await caller.send(GET) == b""
        assert await caller.wait(protocol.LINGER_SECONDS + 1) == b""
        assert caller.wire.ended == "aborted"

    asyncio.run(run(data))
    asyncio.run(run(*(data[i : i + 1] for i in range(len(data)))))


def test_a_fault_is_answered_after_the_requests_before_it() -> None:
    async def run() -> None:
        echo = Echo()
        caller = Caller(echo)
        answers = await caller.send(POST + POST + b"\x00" + GET)
        assert answers.startswith(ok(b"hello") * 2 + b"HTTP/1.1 400")
        assert len(echo.seen) == 2

    asyncio.run(run())


def test_a_body_that_breaks_while_it_is_read_ends_the_request_with_400() -> None:
    async def run() -> None:
        echo = Echo()
        caller = Caller(echo)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert await caller.send(head) == b""
        assert await caller.wait(1) == b""
        assert caller.state.tasks
        assert fault_code(await caller.send(b"z\r\n")) == (400, "bad_request")
        assert [body for _, body in echo.seen] == [b"abc"], "the application was told that the caller is gone"

    asyncio.run(run())


# Sizes.


def test_a_head_may_have_64_kib_and_no_more() -> None:
    async def run(value: int, *, cut: int, body: bytes = b"") -> bytes:
        head = b"POST / HTTP/1.1\r\nContent-Length: %06d\r\nX: " % len(body) + b"v" * value + b"\r\n\r\n" + body
        return await Caller(Echo()).send(*(head[i : i + cut] for i in range(0, len(head), cut)))

    fits = protocol.HEAD_BYTES - len("/" + "Content-Length: 000000\r\n" + "X: \r\n")
    for cut in (1_000, 1 << 20):
        assert asyncio.run(run(fits - 40, cut=cut)) == ok(b"")
        assert fault_code(asyncio.run(run(fits + 1, cut=cut))) == (431, "headers_too_large")
    assert asyncio.run(run(1_000, cut=1 << 20, body=b"b" * 200_000)) == ok(b"b" * 200_000)


@pytest.mark.parametrize(
    ("opening", "drip"),
    [
        (b"GET /", b"a" * 1000),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 1000),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 100),
        (b"\r\n", b"\r\n" * 500),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 1000),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 100),
    ],
)
def test_nothing_is_collected_without_end(opening: bytes, drip: bytes) -> None:
    async def run() -> None:
        caller = Caller(Echo())
        answer, sent = await caller.send(opening), len(opening)
        while not answer:
            answer = await caller.send(drip)
            sent += len(drip)
        assert fault_code(answer) == (431, "headers_too_large")
        assert sent <= protocol.HEAD_BYTES + len(drip)

    asyncio.run(run())


def test_so_many_requests_may_be_sent_ahead() -> None:
    async def run() -> None:
        release = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()
            await Echo()(scope, receive, send)

        caller = Caller(app)
        assert await caller.send(POST, POST * (protocol.AHEAD + 3)) == b""
        release.set()
        for _ in range(protocol.AHEAD):
            await settle()
        answers = caller.take().split(b"HTTP/1.1 200 OK\r\n")
        assert len(answers) == 1 + 1 + protocol.AHEAD
        assert answers[-1].count(b"HTTP/1.1 503") == 1
        assert b"too_many_requests_ahead" in answers[-1]

    asyncio.run(run())


def test_a_request_sent_ahead_inherits_nothing_from_the_one_before() -> None:
    team: ContextVar[str] = ContextVar("team", default="nobody")
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(team.get())
        team.set("search")
        await Echo()(scope, receive, send)

    async def run() -> None:
        assert await Caller(app).send(POST * 3) == ok(b"hello") * 3
        assert seen == ["nobody"] * 3

    asyncio.run(run())


def test_reading_pauses_while_64_kib_of_body_are_unread() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await Echo()(scope, receive, send)

        caller = Caller(app)
        await caller.send(b"POST / HTTP/1.1\r\nContent-Length: 140000\r\n\r\n" + b"x" * 65536)
        assert not caller.wire.paused
        assert not caller.state.tasks
        await caller.send(b"x")
        assert caller.wire.paused
        assert caller.state.tasks, "handed over before it is whole"
        go.set()
        await settle()
        assert not caller.wire.paused
        answer = await caller.send(b"x" * (140_000 - 65_537))
        assert answer == ok(b"x" * 140_000)

    asyncio.run(run())


def test_a_body_that_the_application_leaves_unread_is_no_burden() -> None:
    async def run() -> None:
        caller = Caller(says(start((b"content-length", b"0")), part(b"", more=False)))
        for _ in range(4):
            head = b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n"
            assert await caller.send(head + b"x" * 70_000) == ok(b"")
            assert not caller.wire.paused

    asyncio.run(run())


# Time.


def test_a_head_has_30_seconds_and_an_idle_connection_75() -> None:
    async def run() -> None:
        slow = Caller(Echo())
        assert await slow.wait(20) == b""
        assert await slow.send(b"G") == b""
        assert await slow.wait(29) == b""
        assert await slow.send(b"ET / HTTP/1.1\r\n") == b""
        assert fault_code(await slow.wait(2)) == (408, "request_timeout")
        idle = Caller(Echo())
        assert await idle.send(GET) == ok(b"")
        assert await idle.wait(75) == b""
        assert idle.wire.ended == ""
        assert await idle.wait(1) == b""
        assert idle.wire.ended == "closed"

    asyncio.run(run())


def test_a_slow_body_is_the_applications_to_judge_after_a_second() -> None:
    async def run() -> None:
        caller = Caller(silent)
        await caller.send(POST[:-1])
        assert not caller.state.tasks
        await caller.wait(1)
        assert len(caller.state.tasks) == 1
        assert await caller.wait(1000) == b""
        assert caller.wire.ended == ""
        caller.protocol.connection_lost(None)
        await settle()
        assert not caller.state.tasks

    asyncio.run(run())


def test_an_end_that_makes_progress_is_not_cut() -> None:
    async def run() -> None:
        caller = Caller(Echo())
        caller.wire.held = 1000
        await caller.send(b"GET / HTTP/1.0\r\n\r\n")
        assert caller.wire.ended == "closed"
        for _ in range(100):
            await caller.wait(protocol.LINGER_SECONDS)
            caller.wire.held -= 1
        assert caller.wire.ended == "closed"
        await caller.wait(protocol.LINGER_SECONDS + 2)
        assert caller.wire.ended == "aborted"

    asyncio.run(run())


def test_shutdown_closes_what_is_idle_and_lets_the_rest_finish() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start())
            await go.wait()
            await send(part(b"end", more=False))

        idle, head, body, running = (Caller(Echo()), Caller(Echo()), Caller(Echo()), Caller(app))
        await head.send(b"GET")
        await body.send(POST[:-1])
        assert (await running.send(GET)).endswith(b"transfer-encoding: chunked\r\n\r\n")
        for caller in (idle, head, body, running):
            caller.protocol.shutdown()
        assert [c.wire.ended for c in (idle, head, body, running)] == ["closed", "", "", ""]
        assert await head.send(b" / HTTP/1.1\r\n\r\n" + GET) == ok(b"", b"connection: close\r\n")
        assert await body.send(b"o") == ok(b"hello", b"connection: close\r\n")
        go.set()
        await settle()
        assert running.take() == b"3\r\nend\r\n0\r\n\r\n"
        assert [c.wire.ended for c in (head, body, running)] == ["closed"] * 3

    asyncio.run(run())


# Responses.


@pytest.mark.parametrize(
    ("request_line", "messages", "answer", "ended"),
    [
        (
            b"GET / HTTP/1.1",
            [start(), part(b"ab"), part(b""), part(b"c", more=False)],
            (b"TE", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
            "",
        ),
        (b"GET / HTTP/1.1", [start(), part(b"", more=False)], (b"TE", b"0\r\n\r\n"), ""),
        (
            b"GET / HTTP/1.1",
            [start((b"content-length", b"3")), part(b"ab"), part(b"c", more=False)],
            (b"CL", b"abc"),
            "",
        ),
        (b"GET / HTTP/1.0", [start(), part(b"ab"), part(b"c", more=False)], (b"close", b"abc"), "closed"),
        (b"HEAD / HTTP/1.1", [start((b"content-length", b"3")), part(b"abc", more=False)], (b"CL", b""), ""),
        (b"HEAD / HTTP/1.1", [start(), part(b"a"), part(b"c", more=False)], (b"", b""), ""),
        (b"GET / HTTP/1.1", [start((b"content-length", b"0"), status=204), part(b"x", more=False)], (b"", b""), ""),
        (b"GET / HTTP/1.1", [start((b"content-length", b"3"), status=304), part(b"", more=False)], (b"CL", b""), ""),
        (
            b"GET / HTTP/1.1",
            [start((b"transfer-encoding", b"chunked"), (b"connection", b"keep-alive")), part(b"", more=False)],
            (b"TE", b"0\r\n\r\n"),
            "",
        ),
        (
            b"GET / HTTP/1.1",
            [start((b"transfer-encoding", b"gzip"), (b"content-length", b"3")), part(b"abc", more=False)],
            (b"CL", b"abc"),
            "",
        ),
    ],
)
def test_the_end_of_a_body_is_marked_as_http_wants_it(
    request_line: bytes, messages: list[Any], answer: tuple[bytes, bytes], ended: str
) -> None:
    lines = {
        b"TE": b"transfer-encoding: chunked\r\n",
        b"CL": b"content-length: 3\r\n",
        b"close": b"connection: close\r\n",
        b"": b"",
    }

    async def run() -> None:
        caller = Caller(says(*messages))
        status, _, rest = (await caller.send(request_line + b"\r\n\r\n")).partition(b"\r\n")
        assert status.startswith(b"HTTP/1.1 %d " % messages[0]["status"])
        assert rest == DATE + lines[answer[0]] + b"\r\n" + answer[1]
        assert caller.wire.ended == ended

    asyncio.run(run())


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [part(b"x", more=False)],
        [start((b"content-length", b"3"))],
        [start((b"content-length", b"3")), start()],
        [start((b"content-length", b"3")), part(b"ab", more=False)],
        [start((b"content-length", b"3")), part(b"abcd")],
        [start((b"content-length", b"+3")), part(b"abc", more=False)],
        [start((b"content-length", b"3"), (b"content-length", b"3")), part(b"abc", more=False)],
        [start(NOTHING, status=101), END],
        [start(NOTHING, status=600), END],
        [start((b"x", b"a\r\nb: c"), NOTHING), END],
        [start((b"x", b"a\nb"), NOTHING), END],
        [start((b"x", b"a\x00b"), NOTHING), END],
        [start((b"x\r\ny", b"a"), NOTHING), END],
        [start((b"x y", b"a"), NOTHING), END],
        [start((b"x:", b"a"), NOTHING), END],
        [start((b"", b"a"), NOTHING), END],
        [start((b"X", b"a"), NOTHING), END],
    ],
)
def test_a_failure_before_the_first_byte_is_a_500_in_json(messages: list[Any]) -> None:
    async def run() -> None:
        caller = Caller(says(*messages))
        assert fault_code(await caller.send(POST)) == (500, "internal_error")
        assert not caller.state.tasks

    asyncio.run(run())


def test_a_failure_after_the_first_byte_never_looks_like_an_end() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(part(b"ab"))
        raise RuntimeError("out of order")

    async def run() -> None:
        for app in (broken, says(start(), part(b"ab"))):
            caller = Caller(app)
            assert (await caller.send(POST + POST)).endswith(b"\r\n\r\n2\r\nab\r\n")
            assert caller.wire.ended == "closed"
            assert not caller.state.tasks

    asyncio.run(run())


def test_a_cancelled_application_is_a_500() -> None:
    async def run() -> None:
        caller = Caller(silent)
        assert await caller.send(POST) == b""
        (task,) = caller.state.tasks
        task.cancel()
        await settle()
        assert fault_code(caller.take()) == (500, "internal_error")
        assert task.cancelled()

    asyncio.run(run())


def test_an_answer_before_the_body_has_come_closes_the_connection() -> None:
    async def run() -> None:
        caller = Caller(says(start((b"content-length", b"0"), status=413), part(b"", more=False)))
        head = b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"
        answer = await caller.send(head + b"x" * 100_000)
        assert answer == ok(b"", b"connection: close\r\n").replace(b"200 OK", b"413 Request Entity Too Large")
        assert caller.wire.ended == "half-closed"
        assert not caller.wire.paused, "so that the caller's end is seen"
        assert await caller.send(b"x" * 900_000 + GET) == b""

    asyncio.run(run())


def test_a_failure_with_a_body_still_coming_hears_the_caller_out() -> None:
    async def run() -> None:
        caller = Caller(says())
        answer = await caller.send(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        assert fault_code(answer) == (500, "internal_error")
        assert caller.wire.ended == "half-closed"
        assert not caller.wire.paused

    asyncio.run(run())


def test_what_follows_a_last_request_is_dropped_and_holds_up_nothing() -> None:
    async def run() -> None:
        caller = Caller(silent)
        await caller.send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        old = Caller(silent)
        await old.send(
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nPOST / HTTP/1.0\r\nContent-Length: 99999\r\n\r\n"
        )
        for each in (caller, old):
            assert await each.send(b"x" * 99_999, GET) == b""
            assert not each.wire.paused, "so that a hang-up is seen"
            each.protocol.eof_received()
            await settle()
            assert not each.state.tasks

    asyncio.run(run())


def test_a_slow_reader_holds_up_the_application() -> None:
    async def run() -> None:
        sent = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send(start())
            for _ in range(3):
                await send(part(b"x"))
                sent += 1
                if sent == 1:
                    caller.protocol.pause_writing()

        caller = Caller(app)
        await caller.send(GET)
        assert sent == 1
        caller.protocol.resume_writing()
        await settle()
        assert sent == 3

    asyncio.run(run())


# What the application receives.


def test_100_continue_is_sent_when_the_body_is_asked_for_and_only_then() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"

    async def run() -> None:
        invited = Caller(Echo())
        assert await invited.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await invited.send(b"hel", b"lo") == ok(b"hello")
        at_once = Caller(Echo())
        assert await at_once.send(head + b"hello") == ok(b"hello")
        old = Caller(Echo())
        assert await old.send(head.replace(b"1.1", b"1.0")) == b""
        refusing = Caller(says(start((b"content-length", b"0")), part(b"", more=False)))
        assert await refusing.send(head) == ok(b"", b"connection: close\r\n")

    asyncio.run(run())


@pytest.mark.parametrize("way", ["eof_received", "connection_lost"])
def test_a_caller_that_hangs_up_is_noticed_by_all_who_wait(way: str) -> None:
    async def run() -> None:
        heard = []

        async def listen(receive: Any) -> None:
            heard.append((await receive())["type"])

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            await send(start())
            await asyncio.gather(listen(receive), listen(receive))
            await send(part(b"never seen"))

        caller = Caller(app)
        await caller.send(POST)
        assert heard == []
        getattr(caller.protocol, way)(*([None] if way == "connection_lost" else []))
        await settle()
        assert heard == ["http.disconnect"] * 2
        assert b"never" not in caller.take()
        assert not caller.state.tasks

    asyncio.run(run())


def test_a_reader_that_gives_up_disturbs_no_other_and_the_end_of_the_response_is_told() -> None:
    async def run() -> None:
        heard = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
            watcher = asyncio.get_running_loop().create_task(receive())
            await asyncio.sleep(0)
            await send(start())
            await send(part(b"", more=False))
            heard.append(await watcher)
            heard.append(await receive())
            with pytest.raises(RuntimeError, match=r"may not send http\.response\.body here"):
                await send(part(b"", more=False))

        caller = Caller(app)
        await caller.send(POST)
        await asyncio.sleep(0.02)
        assert heard == [{"type": "http.disconnect"}] * 2
        assert not caller.state.tasks

    asyncio.run(run())
