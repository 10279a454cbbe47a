"""Connections of one provider for any number of threads: the blocking twin of :mod:`llmguard.forward.pool`."""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque

from llmguard.errors import UpstreamError
from llmguard.forward.blocking.engine import Caller
from llmguard.forward.blocking.line import Line, TooLate, open_line
from llmguard.forward.engine import Headers, Outgoing
from llmguard.forward.http1 import RequestEncoder, ResponseFramer
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.tls import client_context


class BlockingPool:
    """Sends requests to one origin; see :class:`llmguard.forward.pool.Pool` for what it promises.

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
        self._idle: deque[tuple[Line, float]] = deque()
        self._slots = threading.BoundedSemaphore(self._limits.max_connections)
        self._waiting = threading.BoundedSemaphore(self._limits.max_waiting) if self._limits.max_waiting else None
        self._closed = False

    def send(self, request: Outgoing, caller: Caller | None) -> BlockingReply:
        """See :meth:`llmguard.forward.blocking.engine.Engine.send`.

        Raises ValueError for a request that cannot be written safely. UpstreamError has status 503 and ``sent`` False
        when the line for a connection is too long or too slow.
        """
        head = self._encoder.head(request.method, request.target, request.headers, len(request.body))
        self._take_slot()
        try:
            line = self._fresh_line()
            try:
                request.before_send()
            except BaseException:
                self._idle.append((line, time.monotonic()))
                raise
        except BaseException:
            self._slots.release()
            raise
        reply = BlockingReply(self, line, self._timeouts, caller)
        try:
            reply.begin(request, head)
        except BaseException:
            reply.close()
            raise
        return reply

    def close(self) -> None:
        """Drop idle connections; a running call ends by itself and drops its own."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].close()

    def give_back(self, line: Line, *, reusable: bool) -> None:
        """A call is over; its place is free."""
        if reusable and not self._closed:
            self._idle.append((line, time.monotonic()))
        else:
            line.close()
        self._slots.release()

    def _take_slot(self) -> None:
        if self._closed:
            raise self._refusal("the pool is closed")
        if self._slots.acquire(blocking=False):
            return
        if self._waiting is None or not self._waiting.acquire(blocking=False):
            raise self._refusal("too many calls wait for a connection")
        try:
            if not self._slots.acquire(timeout=self._timeouts.queue):
                raise self._refusal("no connection became free in time")
        finally:
            self._waiting.release()

    def _fresh_line(self) -> Line:
        """The connection last used that is still good, else a new one. Old ones are closed on the way."""
        oldest = time.monotonic() - self._limits.keep_alive
        while True:
            try:
                line, since = self._idle.pop()
            except IndexError:
                return open_line(self.origin, self._timeouts, self._context)
            if since > oldest and not line.spoke():
                return line
            line.close()

    def _refusal(self, reason: str) -> UpstreamError:
        return UpstreamError(f"{self.origin.authority}: {reason}", sent=False, status=503)


class BlockingReply:
    """The :class:`llmguard.forward.blocking.engine.Incoming` of a connection."""

    def __init__(self, pool: BlockingPool, line: Line, timeouts: Timeouts, caller: Caller | None) -> None:
        self._pool: BlockingPool | None = pool
        self._line = line
        self._timeouts = timeouts
        self._caller = caller
        self._framer = ResponseFramer()
        self._end = time.monotonic() + timeouts.total
        self._waiting = b""
        self._unsent = False
        self.status = 0
        self.headers: Headers = []
        self.body: bytes | None = None

    def begin(self, request: Outgoing, head: bytes) -> None:
        """Send the request and read the reply's head, of a held reply the body too."""
        self._framer.start(request.method)
        self._send(head + request.body)
        first = self._deadline(self._timeouts.first_byte)
        while not self._framer.head_done:
            self._waiting += self._read(first, "the provider did not begin to reply in time")
        self.status, self.headers = self._framer.status, self._framer.headers
        held = request.hold_up_to
        if held and not self._framer.event_stream and (self._framer.length or 0) <= held:
            self._hold(held)

    def next(self) -> bytes:
        """See :meth:`llmguard.forward.blocking.engine.Incoming.next`."""
        while not self._waiting and not self._framer.done:
            deadline = self._deadline(self._timeouts.silence)
            self._waiting = self._read(deadline, "the provider fell silent in the middle of its reply")
        data, self._waiting = self._waiting, b""
        if not data:
            self._leave()
        return data

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it."""
        self._leave()

    def _send(self, data: bytes) -> None:
        try:
            self._unsent = not self._line.write(data, self._deadline(self._timeouts.write), self._caller)
        except TooLate:
            raise UpstreamError("the provider stopped reading the request", sent=True, status=504) from None
        except OSError as error:
            # It may have answered before it broke off: an answer is worth more than the reason for its end.
            self._unsent = True
            if not self._line.spoke():
                raise UpstreamError(f"the provider broke the connection ({error})", sent=True) from error

    def _hold(self, most: int) -> None:
        parts, size = [], 0
        while data := self.next():
            parts.append(data)
            size += len(data)
            if size > most:
                self._waiting = b"".join(parts)
                return
        self.body = b"".join(parts)

    def _read(self, deadline: float, too_late: str) -> bytes:
        """The body bytes of the next read. Raises UpstreamError for what broke the reply, after the bytes before it."""
        self._check()
        try:
            data = self._line.read(deadline, self._caller)
        except TooLate:
            words = too_late if time.monotonic() < self._end else "the call took longer than its total time limit"
            raise UpstreamError(words, sent=True, status=504) from None
        except OSError as error:
            raise UpstreamError(f"the provider broke the connection ({error})", sent=True) from error
        body = self._framer.feed(data) if data else b""
        if not data:
            self._framer.eof()
        if not body:
            self._check()
        return body

    def _check(self) -> None:
        if self._framer.fault is not None:
            raise UpstreamError(f"the provider's reply {self._framer.fault}", sent=True)

    def _deadline(self, seconds: float) -> float:
        return min(time.monotonic() + seconds, self._end)

    def _leave(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give_back(self._line, reusable=self._framer.reusable and not self._unsent and not self._waiting)
