"""The first upstream engine: a pool of HTTP/1.1 connections to one origin, on httptools and bare asyncio protocols.

A call that finds an idle connection costs one future and two callbacks. There is no lock and no timer per call: all
limits of time are checked by one sweep (a second apart by default), which only runs while something is open.

Nothing is ever sent twice. A connection is looked at before it is written to; one that dies after that may have
carried a billed call, so the error says ``sent`` and the decision is the caller's.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from dataclasses import dataclass

from llmguard.errors import UpstreamError
from llmguard.forward.connect import open_connection
from llmguard.forward.connection import Connection
from llmguard.forward.engine import Engine, Outgoing
from llmguard.forward.http1 import RequestEncoder
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.reply import Reply
from llmguard.forward.tls import client_context


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A snapshot: connections open (with those being opened), idle ones among them, calls in line, opened ever."""

    open: int
    idle: int
    waiting: int
    opened: int


class _Sweeps:
    """Time limits in sweeps. A sweep may come right after a call's last move, so the first one counts for nothing."""

    def __init__(self, timeouts: Timeouts, keep_alive: float) -> None:
        def count(seconds: float) -> int:
            return math.ceil(seconds / timeouts.sweep) + 1

        self.write = count(timeouts.write)
        self.first_byte = count(timeouts.first_byte)
        self.silence = count(timeouts.silence)
        self.total = count(timeouts.total)
        self.keep_alive = count(keep_alive)

    def overdue(self, connection: Connection) -> str | None:
        """What a running call has waited too long for."""
        reply = connection.reply
        if reply is None:
            return None
        if connection.age >= self.total:
            return "the call took longer than its total time limit"
        if connection.sending and connection.quiet >= self.write:
            return "the provider stopped reading the request"
        if not reply.status and not connection.sending and connection.quiet >= self.first_byte:
            return "the provider did not begin to reply in time"
        if reply.status and connection.silent and connection.quiet >= self.silence:
            return "the provider fell silent in the middle of its reply"
        return None


class Pool(Engine):
    """Sends requests to one origin. Needs a running loop only once :meth:`send` is called, and then stays with it.

    ``ssl_context`` replaces :func:`llmguard.forward.tls.client_context` for an https origin.
    """

    def __init__(
        self,
        origin: Origin,
        limits: PoolLimits | None = None,
        timeouts: Timeouts | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.origin = origin
        self._limits = limits or PoolLimits()
        self._timeouts = timeouts or Timeouts()
        self._context = (ssl_context or client_context()) if origin.secure else None
        self._encoder = RequestEncoder(origin.authority)
        self._sweeps = _Sweeps(self._timeouts, self._limits.keep_alive)
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._slots = self._limits.max_connections
        self._waiters: deque[tuple[asyncio.Future[Connection | None], float]] = deque()
        self._opened = 0
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def stats(self) -> PoolStats:
        taken = self._limits.max_connections - self._slots
        return PoolStats(taken, len(self._idle), len(self._waiters), self._opened)

    async def send(self, request: Outgoing) -> Reply:
        """See :meth:`Engine.send`. Raises ValueError for a request that cannot be written safely.

        UpstreamError has status 503 and ``sent`` False when the line for a connection is too long or too slow.
        """
        head = self._encoder.head(request.method, request.target, request.headers, len(request.body))
        connection = self._idle.pop() if self._idle else await self._acquire()
        while not connection.usable():
            connection = self._idle.pop() if self._idle else await self._acquire()
        try:
            request.before_send()
        except BaseException:
            self.connection_idle(connection)
            raise
        reply = connection.send(head, request)
        try:
            await reply.ready()
        except BaseException:
            reply.close()
            raise
        return reply

    async def aclose(self) -> None:
        """Drop all connections; running calls and those in line fail. Idempotent."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for waiter, _ in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._refusal("the pool is closed"))
        self._waiters.clear()
        for connection in list(self._connections):
            connection.fail("the pool was closed during the call", 503)
        await asyncio.sleep(0)

    # For connections.

    def connection_idle(self, connection: Connection) -> None:
        """A connection can carry the next call: the first in line takes it, else it waits on top of the pile."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
        elif self._closed:
            connection.drop()
        else:
            self._idle.append(connection)

    def connection_gone(self, connection: Connection) -> None:
        """A connection is closed; its place is free."""
        if connection in self._connections:
            self._connections.remove(connection)
            if connection.reply is None and connection in self._idle:
                self._idle.remove(connection)
            self._free_slot()

    # Inside.

    async def _acquire(self) -> Connection:
        if self._closed:
            raise self._refusal("the pool is closed")
        if not self._slots:
            connection = await self._wait_in_line()
            if connection is not None:
                return connection
        else:
            self._slots -= 1
        return await self._open()

    async def _open(self) -> Connection:
        """Open a connection in a slot that is already taken."""
        try:
            connection = await open_connection(self.origin, self._timeouts, self._context, self)
        except BaseException:
            self._free_slot()
            raise
        self._connections.add(connection)
        self._opened += 1
        self._start_sweeping()
        if self._closed:
            connection.drop()
            raise self._refusal("the pool is closed")
        if connection.gone:
            self.connection_gone(connection)
            raise UpstreamError(f"{self.origin.authority} accepts connections and closes them", sent=False)
        return connection

    async def _wait_in_line(self) -> Connection | None:
        """Wait for an idle connection, or (None) for the right to open one."""
        if len(self._waiters) >= self._limits.max_waiting:
            raise self._refusal("too many calls wait for a connection")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        entry = (waiter, loop.time() + self._timeouts.queue)
        self._waiters.append(entry)
        self._start_sweeping()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._give_back(entry)
            raise

    def _give_back(self, entry: tuple[asyncio.Future[Connection | None], float]) -> None:
        """A cancelled waiter leaves the line, or passes on what it was handed and never saw."""
        waiter = entry[0]
        if waiter.cancelled():
            if entry in self._waiters:
                self._waiters.remove(entry)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self._free_slot()
            elif connection.usable():
                self.connection_idle(connection)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _free_slot(self) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)
        else:
            self._slots += 1

    def _refusal(self, reason: str) -> UpstreamError:
        return UpstreamError(f"{self.origin.authority}: {reason}", sent=False, status=503)

    # The sweep.

    def _start_sweeping(self) -> None:
        if self._sweep_timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._sweep_timer = loop.call_later(self._timeouts.sweep, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = None
        for connection in list(self._connections):
            connection.age += 1
            connection.quiet += 1
            reason = self._sweeps.overdue(connection)
            if reason is not None:
                connection.fail(reason, 504)
        while self._idle and self._idle[0].quiet >= self._sweeps.keep_alive:
            self._idle[0].retire()
        now = loop.time()
        while self._waiters and self._waiters[0][1] <= now:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(self._refusal("no connection became free in time"))
        if self._connections or self._waiters:
            self._start_sweeping()
