"""The server's side of HTTP/1.1 as a protocol class for uvicorn's ``http=``, made for many short requests.

Parsing is llhttp's strict mode; what that leaves open (versions, upgrades, trailers, targets, sizes) is decided here,
and whatever two programs could read in two ways is refused. A request costs one write and no timer. It is handed to the
application when it is whole; one that is large, slow or waits for `100 Continue` is handed over earlier. Requests sent
ahead are answered one by one, in order. A caller that closes its sending side has hung up. A head that repeats the last
one is not parsed again (see :mod:`llmguard.proxy.heads`).

Of uvicorn's options it heeds the application, the root path, the default headers and the keep-alive time; it writes no
access log, switches to no other protocol and knows no limit of concurrency.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from contextvars import copy_context
from typing import Any
from urllib.parse import unquote
from weakref import WeakSet

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from llmguard.proxy.cycle import CLOSE, Cycle, Fault, Fields, Message, encode_fault
from llmguard.proxy.heads import MEMO, KnownHead, learn

HEAD_BYTES = 64 * 1024
"""Of a request's head, and of whatever else brings no progress, such as trailers."""
BODY_BYTES = 64 * 1024
"""Of bodies that the application has not received: above it, nothing more is read from the connection."""
AHEAD = 128
"""Requests that may wait behind the running one."""
HEAD_SECONDS = 30
"""How long a head may take to arrive."""
LINGER_SECONDS = 10
"""How long a caller may stall the end of its connection before that is cut."""
SWEEP_SECONDS = 1.0
"""Time is counted in sweeps over all connections."""

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_RESET = struct.pack("ii", 1, 0)

LARGE_HEAD = (431, "headers_too_large", "The request has too many or too large headers.")
SLOW_HEAD = (408, "request_timeout", "The request took too long to arrive.")
UPGRADE = (400, "upgrade_refused", "The protocol cannot be changed on this connection.")
BAD_VERSION = (505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
BAD_FRAMING = (400, "bad_framing", "HTTP/1.0 has no Transfer-Encoding.")
BAD_TARGET = (400, "bad_target", "The request's target and its Host header name different hosts.")
TOO_FAR_AHEAD = (503, "too_many_requests_ahead", f"More than {AHEAD} requests were sent ahead. Send this one again.")
FAILED = (500, "internal_error", "The server failed to answer this request.")

_swept: WeakSet[ServerState] = WeakSet()


class HttpProtocol(asyncio.Protocol):
    """One connection of a caller.

    ``_running`` is the request that the application is answering, ``_waiting`` are those behind it, ``_incoming`` the
    one whose body is arriving. ``_deaf``: whatever still arrives is dropped. ``_fault``: to be answered after all
    requests before it. ``_ending``: close after the next response. ``_leaving``: nothing more will be written.
    ``_barren`` counts bytes without progress, ``_age`` sweeps since the connection began to wait for what it waits for.
    """

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        self._config = config
        self._app_state = app_state
        self._loop: asyncio.AbstractEventLoop = _loop or asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._fields: Fields = []
        self._known: KnownHead | None = None
        self._running: Cycle | None = None
        self._incoming: Cycle | None = None
        self._waiting: deque[Cycle] = deque()
        self._waiters: set[asyncio.Future[None]] = set()
        self._fault: Fault | None = None
        self._barren = self._unread = self._unsent = self._age = 0
        self._in_head = self._deaf = self._ending = self._leaving = self._reading_paused = False
        self.server_state = server_state
        self.writing_paused = False

    # For the transport.

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self._client = get_remote_addr(transport)
        self._server = get_local_addr(transport)
        self._scheme = "https" if is_ssl(transport) else "http"
        self._context = copy_context()
        state: Any = self.server_state
        state.connections.add(self)
        if state not in _swept:
            _swept.add(state)
            self._loop.call_later(SWEEP_SECONDS, _sweep, self._loop, state)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        between = not (self._barren or self._in_head or self._incoming or self._waiting or self._running)
        if between and self._known is not None and len(data) <= BODY_BYTES:
            body = self._known.body_in(data)
            if body is not None:
                self._take(self._known, body)
                return
        self._parse(data)
        if between and len(self._waiting) == 1:
            self._remember(data, self._waiting[0])
        if self._running is None:
            self._advance()
        elif self._waiters:
            self._wake()

    def _take(self, known: KnownHead, body: bytes) -> None:
        """A whole request whose head is the last one's."""
        self._age = 0
        cycle = Cycle(self, known.scope(len(body), self._app_state), keep_alive=True, whole=True)
        if body:
            cycle.add(body)
            self._unread += len(body)
        self._waiting.append(cycle)
        self._start()

    def _remember(self, data: bytes, cycle: Cycle) -> None:
        """Keep the head of a request that arrived alone and at once."""
        if cycle.whole and cycle.keep_alive and not (self._barren or self._in_head):
            self._known = learn(data, cycle.unread, cycle.scope)

    def _parse(self, data: bytes) -> None:
        self._barren += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserUpgrade:
            self._deaf = True
        except httptools.HttpParserError as error:
            self._refuse((400, "bad_request", f"This is not proper HTTP/1.1: {error}."))
        if self._barren > HEAD_BYTES:
            self._refuse(LARGE_HEAD)

    def eof_received(self) -> None:
        self._hang_up()
        self._leave(at_once=True)

    def connection_lost(self, exc: Exception | None) -> None:
        connections: set[Any] = self.server_state.connections
        connections.discard(self)
        self._deaf = self._leaving = True
        self._parser = None
        self._waiting.clear()
        self._hang_up()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._wake()

    # For the server.

    def shutdown(self) -> None:
        """Close now if nothing is under way, else after the next response."""
        self._ending = True
        if self._running is None and not self._waiting and not self._in_head:
            self._leave(at_once=True)

    def sweep(self) -> None:
        """Called once a second: end what has waited for too long."""
        self._age += 1
        if self._leaving:
            unsent = self.transport.get_write_buffer_size()
            if unsent != self._unsent:
                self._unsent, self._age = unsent, 0
            elif self._age > LINGER_SECONDS:
                self.transport.abort()
        elif self._running is not None:
            pass  # the application has limits of its own
        elif self._waiting:
            self._start()
        elif self._in_head:
            if self._age > HEAD_SECONDS:
                self._refuse(SLOW_HEAD)
                self._advance()
        elif self._age > self._config.timeout_keep_alive:
            self._leave(at_once=True)

    # For the parser. Nothing here may raise: httptools would wrap it in an error of its own.

    def on_message_begin(self) -> None:
        self._in_head = True
        self._age = 0
        self._url = b""
        self._fields = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        version = self._parser.get_http_version()
        fault = self._head_fault(version)
        if fault is not None:
            self._refuse(fault)
            return
        self._incoming = cycle = Cycle(
            self, self._scope(version), keep_alive=version == "1.1" and self._parser.should_keep_alive()
        )
        self._waiting.append(cycle)
        self._fields = []  # for trailers
        self._barren = 0

    def on_body(self, body: bytes) -> None:
        cycle = self._incoming
        if cycle is not None:
            cycle.add(body)
            self._barren = 0
            self._unread += len(body)
            if self._unread > BODY_BYTES and not self._reading_paused:
                self._reading_paused = True
                self.transport.pause_reading()

    def on_message_complete(self) -> None:
        cycle = self._incoming
        if cycle is not None:
            cycle.whole = True
            if self._fields:
                # Dropped, and llhttp may have taken one of them for the next request's.
                cycle.keep_alive = False
            self._deaf = not cycle.keep_alive
            self._incoming = None
            self._barren = 0

    def _head_fault(self, version: str) -> Fault | None:
        fields, url = self._fields, self._url
        if self._barren > HEAD_BYTES and len(url) + sum(len(n) + len(v) + 4 for n, v in fields) > HEAD_BYTES:
            return LARGE_HEAD
        if self._parser.should_upgrade():
            return UPGRADE
        if version != "1.1":
            if version != "1.0":
                return BAD_VERSION
            if any(name == b"transfer-encoding" for name, _ in fields):
                return BAD_FRAMING
        if not url.startswith(b"/") and url != b"*":
            host, _, path = url.partition(b"://")[2].partition(b"/")
            if [value.lower() for name, value in fields if name == b"host"] != [host.lower()]:
                return BAD_TARGET
            self._url = b"/" + path
        return TOO_FAR_AHEAD if len(self._waiting) >= AHEAD else None

    def _scope(self, version: str) -> Message:
        raw_path, _, query = self._url.partition(b"?")
        path, root = raw_path.decode("ascii"), self._config.root_path
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": root + (unquote(path) if "%" in path else path),
            "raw_path": root.encode() + raw_path if root else raw_path,
            "query_string": query,
            "root_path": root,
            "headers": self._fields,
            "extensions": {MEMO: {}},
            "state": self._app_state.copy(),
            "scheme": self._scheme,
            "client": self._client,
            "server": self._server,
        }

    # For the requests.

    async def changed(self) -> None:
        """Wait for a change: bytes of a body, a response's end, a hang-up, room to write."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def consumed(self, size: int) -> None:
        """The application has received some of a body."""
        self._unread -= size
        if self._reading_paused and self._unread <= BODY_BYTES:
            self._reading_paused = False
            self.transport.resume_reading()

    def finished(self, cycle: Cycle) -> None:
        """The response is complete: go on to the next request, or close."""
        self.server_state.total_requests += 1
        self._running = None
        self._age = 0
        if cycle.unread:
            self.consumed(cycle.unread)
        if self._waiters:
            self._wake()
        if cycle.keep_alive and not self._ending:
            self._advance()
        else:
            self._leave(at_once=cycle.whole)

    def left(self, cycle: Cycle) -> None:
        """The application has returned, if need be without a complete response."""
        self.server_state.tasks.discard(cycle.task)
        if cycle.complete or self._leaving:
            return
        cycle.gone = True
        if not cycle.answered:
            self._answer(self._fault or FAILED)
        elif cycle.framing == CLOSE:
            # Nothing but a reset tells the caller that this was not all.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self._leave(at_once=True)

    # Inside.

    def _advance(self) -> None:
        """None is running: start the next request if it is time, or else answer the fault behind the last one."""
        if self._waiting:
            cycle = self._waiting[0]
            if cycle.whole or self._unread > BODY_BYTES or cycle.expects_continue():
                self._start()
        elif self._fault is not None:
            self._answer(self._fault)

    def _start(self) -> None:
        self._running = cycle = self._waiting.popleft()
        if self._ending:
            cycle.keep_alive = False
        # The connection's own context, because this may run in the task of the request before.
        task = self._loop.create_task(cycle.run(self._config.loaded_app), context=self._context.copy())
        cycle.task = task
        self.server_state.tasks.add(task)

    def _refuse(self, fault: Fault) -> None:
        """Take in nothing more. A request whose body has become unreadable is answered with the fault, too."""
        if self._deaf:
            return
        self._deaf = True
        self._fault = fault
        cycle, self._incoming = self._incoming, None
        if cycle is not None and cycle is self._running:
            cycle.gone = True
        elif cycle is not None:
            self._waiting.pop()

    def _answer(self, fault: Fault) -> None:
        self.transport.write(encode_fault(fault, self.server_state.default_headers))
        self._leave()

    def _leave(self, *, at_once: bool = False) -> None:
        """Write nothing more. A caller that may still be sending first gets to read what was written."""
        self._deaf = self._leaving = True
        self._age = 0
        self._waiting.clear()
        if at_once or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self._unread = 0
            self.consumed(0)

    def _hang_up(self) -> None:
        if self._running is not None:
            self._running.gone = True
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def _sweep(loop: asyncio.AbstractEventLoop, state: Any) -> None:
    for connection in list(state.connections):
        connection.sweep()
    if state.connections:
        loop.call_later(SWEEP_SECONDS, _sweep, loop, state)
    else:
        _swept.discard(state)
