"""The server protocol under a real uvicorn on loopback, spoken to by raw sockets, on both event loops."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn

from llmguard.proxy import protocol
from llmguard.proxy.protocol import HttpProtocol

PATIENCE = 10.0
CHUNK = b"x" * 16_384


class App:
    """`/echo` answers with the body, `/slow` with its size, `/refuse` before it, `/wait` never; `/stream` endlessly."""

    def __init__(self) -> None:
        self.chunks = 0
        self.heard: list[str] = []
        self.gate = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await getattr(self, scope["path"][1:])(scope, receive, send)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        body = await self._body(receive)
        await send(_start((b"content-length", b"%d" % len(body))))
        await send({"type": "http.response.body", "body": body})

    async def slow(self, scope: Any, receive: Any, send: Any) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        size, message = 0, {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            size += len(message.get("body", b""))
        await send(_start((b"content-length", b"8")))
        await send({"type": "http.response.body", "body": b"%08d" % size})

    async def refuse(self, scope: Any, receive: Any, send: Any) -> None:
        await send(_start((b"content-length", b"4"), status=413))
        await send({"type": "http.response.body", "body": b"much"})

    async def wait(self, scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        self.heard.append(message["type"])

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        watcher = asyncio.ensure_future(self.wait(scope, receive, send))
        await send(_start())
        while not watcher.done() and not self.gate.is_set():
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.chunks += 1
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"end"})
        await watcher

    async def broken(self, scope: Any, receive: Any, send: Any) -> None:
        await send(_start())
        await send({"type": "http.response.body", "body": b"beginning", "more_body": True})
        raise RuntimeError("broken on purpose")

    async def _body(self, receive: Any) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body


def _start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


class Served:
    """A server in a thread of its own."""

    def __init__(self, loop: str) -> None:
        self.app = App()
        config = uvicorn.Config(
            self.app,
            port=0,
            loop=loop,
            http=HttpProtocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    def start(self) -> None:
        self.thread.start()
        wait_until(lambda: self.server.started and self.server.server_state.default_headers != [])
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.app.gate.set()
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    @contextmanager
    def connected(self, *, receive_buffer: int = 0) -> Iterator[socket.socket]:
        with socket.socket() as sock:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(("127.0.0.1", self.port))
            yield sock


@pytest.fixture(params=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    served = Served(request.param)
    served.start()
    try:
        yield served
    finally:
        served.stop()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.002)


def post(path: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """One answer with a length: its status and its body."""
    head, body = read_parts(sock)
    return int(head[9:12]), body


def read_parts(sock: socket.socket) -> tuple[bytes, bytes]:
    """One answer with a length: its head and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += read_some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += read_some(sock)
    assert len(body) == length, "bytes behind the answer"
    return head, body


def read_some(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    assert data, "closed too early"
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65_536):
        data += more
    return data


def test_a_real_client_keeps_its_connection(served: Served) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{served.port}") as client:
        for size in (0, 1, 70_000, 3_000_000):
            body = os.urandom(size)
            answer = client.post("/echo", content=body)
            assert answer.content == body
            assert answer.headers["date"].endswith(" GMT")
            assert client.post("/echo", content=iter([body[: size // 2], body[size // 2 :]])).content == body
        assert len(served.server.server_state.connections) == 1
    state = served.server.server_state
    wait_until(lambda: not state.connections)  # the last request is counted just after its answer was written
    assert state.total_requests == 8
    assert state.tasks == set()


@pytest.mark.parametrize(
    "data",
    [
        post("/echo", b"hello"),
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_the_bytes_may_come_cut_anywhere(served: Served, data: bytes) -> None:
    with served.connected() as sock:
        for cut in range(1, len(data)):
            sock.sendall(data[:cut])
            time.sleep(0.001)
            sock.sendall(data[cut:])
            assert read_answer(sock) == (200, b"hello"), cut


def test_100_requests_sent_ahead_are_answered_in_order(served: Served) -> None:
    with served.connected() as sock:
        bodies = [b"%d;" % n for n in range(100)]
        sock.sendall(b"".join(post("/echo", body) for body in bodies[:-1]))
        sock.sendall(post("/echo", bodies[-1], "Connection: close"))
        answers = read_all(sock)
    assert [answer.rpartition(b"\r\n")[2] for answer in answers.split(b"HTTP/1.1 200 OK")[1:]] == bodies


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nX : y\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nX: " + b"y" * 1_000_000, 431),
        (b"\x16\x03\x01" + b"\x00" * 1_000_000, 400),
    ],
)
def test_a_refused_caller_gets_to_read_why(served: Served, data: bytes, status: int) -> None:
    with served.connected() as sock:
        sock.sendall(data)
        head, _ = read_parts(sock)
        assert int(head[9:12]) == status
        assert re.search(rb"\r\nx-llmguard-request-id: [0-9a-f-]{36}(\r\n|$)", head)
        assert read_all(sock) == b""
    wait_until(lambda: not served.server.server_state.connections)


def test_garbage_harms_nobody_else(served: Served) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    pieces = [
        post("/echo", b"a" * 20),
        b"\r\n",
        b"\x00",
        b"GET ",
        b"HTTP/1.1",
        b": ",
        b"5\r\n",
        b"Transfer-Encoding: chunked",
    ]
    for _ in range(100):
        data = bytearray(b"".join(dice.choices(pieces, k=4)))
        for _ in range(dice.randrange(4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with served.connected() as sock:
            sock.sendall(data)
    with served.connected() as sock:
        sock.sendall(post("/echo", b"fine"))
        assert read_answer(sock) == (200, b"fine")
    wait_until(lambda: not served.server.server_state.connections and not served.server.server_state.tasks)


def test_an_early_refusal_is_read_by_a_caller_that_is_still_sending(served: Served) -> None:
    with served.connected() as sock:
        sock.sendall(post("/refuse", b"x" * 30_000_000))
        assert read_answer(sock) == (413, b"much")
        assert read_all(sock) == b""


def test_100_continue(served: Served) -> None:
    with served.connected() as sock:
        sock.sendall(post("/echo", b"hello", "Expect: 100-continue")[:-5])
        assert read_some(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert read_answer(sock) == (200, b"hello")


def test_a_slow_head_and_an_idle_connection_are_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SWEEP_SECONDS", 0.02)
    with served.connected() as slow, served.connected() as idle:
        slow.sendall(b"GET /echo HT")
        assert read_answer(slow)[0] == 408
        assert read_all(slow) == b""
        assert read_all(idle) == b""
        wait_until(lambda: not served.server.server_state.connections)  # though the callers have closed nothing


def test_unread_bodies_hold_up_their_caller(served: Served) -> None:
    size = 40_000_000
    with served.connected() as sock:
        sock.sendall(post("/slow", b"")[:-21] + b"Content-Length: %d\r\n\r\n" % size)
        sock.setblocking(False)
        sent, quiet = 0, 0
        while quiet < 20:
            try:
                sent += sock.send(b"b" * min(65_536, size - sent))
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.01)
        assert sent < size / 2
        (connection,) = served.server.server_state.connections
        assert connection._unread < 65_536 + 262_144
        served.app.gate.set()
        sock.settimeout(PATIENCE)
        sock.sendall(b"b" * (size - sent))
        assert read_answer(sock) == (200, b"40000000")


def test_a_slow_reader_costs_little_memory_and_keeps_its_stream(served: Served) -> None:
    with served.connected(receive_buffer=65_536) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = -1
        while seen != served.app.chunks or not seen:
            seen = served.app.chunks
            time.sleep(0.2)
        (connection,) = served.server.server_state.connections
        assert connection.transport.get_write_buffer_size() < 65_536 + 2 * len(CHUNK)
        served.app.gate.set()
        data = b""
        while not data.endswith(b"\r\n3\r\nend\r\n0\r\n\r\n"):
            data = data[-100:] + read_some(sock)
    wait_until(lambda: not served.server.server_state.tasks)


def test_a_caller_that_never_reads_its_last_answer_is_cut(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SWEEP_SECONDS", 0.02)
    with served.connected(receive_buffer=65_536) as sock:
        sock.sendall(post("/echo", b"x" * 10_000_000, "Connection: close"))
        wait_until(lambda: served.server.server_state.total_requests)
        wait_until(lambda: not served.server.server_state.connections)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("path", ["/wait", "/stream"])
def test_a_hang_up_is_noticed(served: Served, path: str, reset: bool) -> None:
    with served.connected() as sock:
        sock.sendall(post(path, b"hello"))
        if path == "/stream":
            read_some(sock)
        else:
            wait_until(lambda: served.server.server_state.tasks)
        assert served.app.heard == []
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: served.app.heard == ["http.disconnect"])
    wait_until(lambda: not served.server.server_state.connections and not served.server.server_state.tasks)


def test_a_broken_answer_is_seen_to_be_broken(served: Served) -> None:
    with served.connected() as sock:
        sock.sendall(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(sock).endswith(b"\r\n\r\n9\r\nbeginning\r\n")
    with served.connected() as sock:
        sock.sendall(b"GET /broken HTTP/1.0\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_an_unknown_path_of_the_application_is_a_500_and_the_log_says_why(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with served.connected() as sock:
        sock.sendall(post("/nonesuch", b"hello"))
        assert read_answer(sock)[0] == 500
    assert "AttributeError" in caplog.text


def test_a_stopping_server_lets_streams_end_and_closes_the_rest(served: Served) -> None:
    with served.connected() as idle, served.connected() as busy:
        idle.sendall(post("/echo", b"hello"))
        assert read_answer(idle) == (200, b"hello")
        busy.sendall(post("/stream", b""))
        read_some(busy)
        served.server.should_exit = True
        assert read_all(idle) == b""
        wait_until(lambda: not served.server.servers[0].is_serving())
        more = served.app.chunks
        while served.app.chunks < more + 20:
            read_some(busy)
        assert served.thread.is_alive()
        served.app.gate.set()
        assert read_all(busy).endswith(b"3\r\nend\r\n0\r\n\r\n")
        served.thread.join(PATIENCE)
        assert not served.thread.is_alive()
