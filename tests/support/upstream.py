"""A provider made for tests: a real HTTP/1.1 server on loopback that answers exactly what it is told to.

::

    with upstream() as u:
        u.reply(json_body={"id": "x"})                       # what every request gets from now on
        u.queue(sse=text, cuts=[1, 7], gap=0.01)             # what the next request gets; queued ones come first
        u.queue(body=b"half of it", fault="reset", after=4)
        ...                                                  # talk to u.url
        assert [r.target for r in u.requests] == ["/v1/models"]

The server runs in a thread with a loop of its own, so that tests may block. It serves HTTP/1.1 with keep-alive and
records every request whole. Faults: ``hang`` (silent with the connection open), ``close`` (an orderly end in the wrong
place, so a truncated body), ``reset`` (TCP RST). They strike before the head, or ``after`` that many body bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Framing = Literal["length", "chunked", "close"]
Fault = Literal["hang", "close", "reset"]
HeaderPairs = Sequence[tuple[str, str]]

SSE = "text/event-stream; charset=utf-8"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived. Header names keep their case; ``connection`` numbers the TCP connection from 1."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """The only value of a header, or None. Fails when it was sent twice."""
        values = [v for n, v in self.headers if n.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Answer:
    """What to send: ``pieces`` of the body are written one by one, ``gap`` seconds apart, ``delay`` before the head.

    ``wire`` sizes cut the serialised response instead (head and chunk framing included), also ``gap`` apart.
    """

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    framing: Framing = "length"
    delay: float = 0.0
    gap: float = 0.0
    wire: Sequence[int] = ()
    fault: Fault | None = None
    after: int | None = None
    interim: bytes = b""


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """``data`` in pieces of these sizes; the last size repeats. No sizes: one piece."""
    pieces: list[bytes] = []
    at = 0
    todo = deque(sizes)
    while at < len(data):
        size = (todo.popleft() if len(todo) > 1 else todo[0]) if todo else len(data)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def random_cuts(total: int, seed: int, *, largest: int = 200) -> list[int]:
    """Piece sizes that cover ``total`` bytes: many tiny, some large, and the same ones for the same seed."""
    rng = random.Random(seed)
    sizes: list[int] = []
    while sum(sizes) < total:
        sizes.append(rng.randint(1, 3) if rng.random() < 0.5 else rng.randint(1, largest))
    return sizes or [1]


def answer(
    *,
    status: int = 200,
    headers: HeaderPairs | Mapping[str, str] = (),
    body: bytes | str | None = None,
    json_body: Any = None,
    sse: str | bytes | None = None,
    cuts: Sequence[int] = (),
    framing: Framing | None = None,
    **how: Any,
) -> Answer:
    """An :class:`Answer` from one of ``body``, ``json_body`` or ``sse`` (chunked unless told otherwise)."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    content_type = SSE if sse is not None else "application/json"
    if not any(name.lower() == "content-type" for name, _ in pairs):
        pairs.insert(0, ("content-type", content_type))
    data = body if body is not None else sse if sse is not None else json.dumps(json_body)
    raw = data.encode() if isinstance(data, str) else data
    chosen: Framing = framing or ("chunked" if sse is not None else "length")
    return Answer(status=status, headers=pairs, pieces=cut(raw, cuts), framing=chosen, **how)


def recorded(record: Mapping[str, Any], *, cuts: Sequence[int] = (), **how: Any) -> Answer:
    """The response of one recorded interaction (see the README of the recordings), byte for byte."""
    response = record["response"]
    if "sse_text" in response:
        body: bytes = response["sse_text"].encode()
    elif "body_text" in response:
        body = response["body_text"].encode()
    elif "body_b64" in response:
        body = base64.b64decode(response["body_b64"])
    else:
        body = json.dumps(response.get("body"), ensure_ascii=False).encode()
    headers = {name: str(value) for name, value in (response.get("headers") or {}).items()}
    if "sse_text" in response:
        headers.setdefault("content-type", SSE)
    framing: Framing = "chunked" if record.get("stream_format") else "length"
    status = response.get("status") or 200
    return answer(status=status, headers=headers, body=body, cuts=cuts, **{"framing": framing, **how})


class _Reader(asyncio.StreamReader):
    """A reader that says at once when the other side hung up, also while nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 20)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


class Upstream:
    """The running server. ``requests`` grows as requests arrive; ``bytes_sent`` counts what the sockets took.

    ``alive`` has the numbers of the connections that are open.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self.open_connections = 0
        self.alive: set[int] = set()
        self.bytes_sent = 0
        self._tls = tls
        self._standing: Answer | Callable[[Seen], Answer] = answer(json_body={})
        self._queue: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="test-upstream", daemon=True)
        self.port = 0

    # What tests call, from any thread

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    url = origin

    def reply(self, what: Answer | Callable[[Seen], Answer] | None = None, **how: Any) -> None:
        """Set what every request gets: an :class:`Answer`, a function of the request, or :func:`answer`'s arguments."""
        self._standing = answer(**how) if what is None else what

    def queue(self, what: Answer | None = None, **how: Any) -> None:
        """Set what one later request gets, first in, first out, before the standing reply."""
        self._queue.append(answer(**how) if what is None else what)

    def wait_for(self, condition: Callable[[Upstream], bool], timeout: float = 5.0) -> None:
        """Block until something became true of this server, e.g. ``lambda u: u.open_connections == 0``."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), (
                f"not within {timeout} s: {len(self.requests)} requests, {self.open_connections} open connections"
            )

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10), "the test upstream did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the test upstream did not stop"

    # The server's own thread

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

        def connect() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_Reader(), self._accept)

        server = await self._loop.create_server(connect, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.alive.add(number)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._note(opened=1)
        try:
            while (seen := await _read_request(reader, writer, number)) is not None:
                with self._changed:
                    self.requests.append(seen)
                    self._changed.notify_all()
                if not await self._answer(seen, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # or closing would wait for a caller that does not read
            raise
        finally:
            try:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            finally:
                writer.transport.abort()
                self.alive.discard(number)
                self._note(opened=-1)

    def _note(self, *, opened: int = 0, sent: int = 0) -> None:
        with self._changed:
            self.open_connections += opened
            self.bytes_sent += sent
            self._changed.notify_all()

    async def _answer(self, seen: Seen, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Send the reply; True when the connection may serve another request."""
        what = self._queue.popleft() if self._queue else self._standing
        reply = what if isinstance(what, Answer) else what(seen)
        await _pause(reply.delay, reader)
        for piece in _wire(seen, reply):
            writer.write(piece)
            await writer.drain()
            self._note(sent=len(piece))
            await _pause(reply.gap, reader)
        if reply.fault == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        elif reply.fault == "hang":
            await reader.gone.wait()
        return reply.fault is None and reply.framing != "close" and (seen.header("connection") or "").lower() != "close"


async def _pause(seconds: float, reader: _Reader) -> None:
    """Wait, but notice a caller that hangs up."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.gone.wait(), seconds)
            raise ConnectionResetError


async def _read_request(reader: _Reader, writer: asyncio.StreamWriter, number: int) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines[1:])]
    known = {name.lower(): value for name, value in headers}
    if known.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if known.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(known.get("content-length", "0")))
    return Seen(method, target, headers, body, number)


async def _read_chunks(reader: _Reader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


def _wire(seen: Seen, reply: Answer) -> list[bytes]:
    """The bytes to write, in order, cut short where a fault strikes."""
    if reply.fault and reply.after is None:
        return []
    bodyless = seen.method == "HEAD" or reply.status in (204, 304)
    pieces = [] if bodyless else [piece for piece in reply.pieces if piece]
    head = [f"HTTP/1.1 {reply.status} Test", *(f"{name}: {value}" for name, value in reply.headers)]
    if reply.framing == "chunked" and not bodyless:
        head.append("transfer-encoding: chunked")
    elif reply.framing == "length" and reply.status != 204:
        head.append(f"content-length: {sum(map(len, reply.pieces))}")
    else:
        head.append("connection: close")
    if reply.fault:
        pieces = _first(pieces, reply.after or 0)
    if reply.framing == "chunked" and not bodyless:
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        if not reply.fault:
            pieces.append(b"0\r\n\r\n")
    start = reply.interim + "\r\n".join([*head, "", ""]).encode("latin-1")
    if reply.wire:
        return cut(b"".join([start, *pieces]), reply.wire)
    return [start, *pieces] if reply.gap else [b"".join([start, *pieces[:1]]), *pieces[1:]]


def _first(pieces: list[bytes], size: int) -> list[bytes]:
    taken: list[bytes] = []
    for piece in pieces:
        if size <= 0:
            break
        taken.append(piece[:size])
        size -= len(piece)
    return taken


@contextlib.contextmanager
def upstream(*, tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    """A running server, stopped at the end of the block."""
    server = Upstream(tls=tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()
