"""One HTTP/1.1 connection to a provider, as an asyncio protocol: callbacks only, no task, no timer of its own.

Time is counted in sweeps of the pool: a sweep adds one to ``age`` and ``quiet``, every move sets ``quiet`` to zero. So
a call costs no timer and asks no clock.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Protocol

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Outgoing
from llmguard.forward.http1 import ResponseFramer
from llmguard.forward.reply import Reply

# A head and a body up to this size go out in one write (and one TLS record).
_JOIN_UP_TO = 15 * 1024
# A larger body goes out in slices, so that a TLS transport never holds an encrypted copy of all of it.
_SLICE = 128 * 1024


class Owner(Protocol):
    """The pool, as its connections see it."""

    def connection_idle(self, connection: Connection) -> None: ...
    def connection_gone(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Carries one call at a time.

    ``age`` counts sweeps since its call began, ``quiet`` sweeps since its last move; ``gone`` says that it was closed.
    """

    __slots__ = (
        "_cut_short",
        "_framer",
        "_loop",
        "_owner",
        "_pump_handle",
        "_read_paused",
        "_secure",
        "_socket",
        "_transport",
        "_unsent",
        "_write_paused",
        "age",
        "gone",
        "quiet",
        "reply",
    )

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, sock: socket.socket, *, secure: bool) -> None:
        self._loop = loop
        self._owner = owner
        self._socket = sock
        self._secure = secure
        self._framer = ResponseFramer()
        self._unsent: memoryview | None = None
        self._pump_handle: asyncio.Handle | None = None
        self._read_paused = False
        self._write_paused = False
        self._cut_short = False
        self.gone = False
        self.age = 0
        self.quiet = 0
        self.reply: Reply | None = None

    # For the pool.

    @property
    def sending(self) -> bool:
        """Whether part of the request has not been handed to the transport."""
        return self._unsent is not None

    @property
    def silent(self) -> bool:
        """Whether ``quiet`` is the provider's doing: reading is not paused for a slow caller."""
        return not self._read_paused

    def usable(self) -> bool:
        """Whether a request may be written: the peer has neither closed nor said anything unasked.

        One that was idle for a while is looked at once more, because the loop may not have seen the peer's end yet.
        """
        if self.gone or self._transport.is_closing():
            return False
        if self.quiet and self._peer_spoke():
            self.drop()
            return False
        return True

    def send(self, head: bytes, request: Outgoing) -> Reply:
        """Write a request and expect its reply."""
        self.reply = reply = Reply(self._loop, self, request.hold_up_to)
        self._framer.start(request.method)
        self.age = self.quiet = 0
        body = request.body
        if len(body) <= _JOIN_UP_TO:
            self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._pump()
        return reply

    def fail(self, message: str, status: int = 502) -> None:
        """End the running call with an error and drop the connection."""
        reply = self.reply
        self.drop()
        if reply is not None:
            reply.fail(UpstreamError(message, sent=True, status=status))

    def drop(self) -> None:
        """Close now, whatever is under way. Idempotent."""
        self.reply = None
        if not self.gone:
            self._transport.abort()
            self._leave()

    def retire(self) -> None:
        """Close an idle connection politely."""
        if not self.gone:
            self._transport.close()
            self._leave()

    def resume(self) -> None:
        """The reply's reader has caught up."""
        if self._read_paused and not self.gone:
            self._read_paused = False
            self.quiet = 0
            self._transport.resume_reading()
            if self._secure:
                # After the transport has deciphered what it has, which it does in a callback of its own.
                self._loop.call_soon(self._widen)

    # For the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None:
            self.drop()
            return
        framer = self._framer
        body = framer.feed(data)
        if framer.head_done:
            # Only now: a head that drips in byte by byte has one limit for all of it.
            self.quiet = 0
            self._deliver(reply, framer, body)
        elif framer.fault is not None:
            self.fail(f"the provider's reply {framer.fault}")

    def eof_received(self) -> None:
        reply = self.reply
        if reply is None:
            self._leave()
            return
        framer = self._framer
        if not self._secure or self._said_goodbye():
            framer.eof()
        if framer.done:
            self._finish(reply)
        else:
            self.fail(f"the provider's reply {framer.fault or 'ends without the goodbye of TLS'}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        reply, self.reply = self.reply, None
        if reply is not None:
            reply.fail(UpstreamError(f"the provider broke the connection ({exc or 'closed'})", sent=True))

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._pump()

    # Inside.

    def _deliver(self, reply: Reply, framer: ResponseFramer, body: bytes) -> None:
        if not reply.status:
            reply.open(framer)
            if framer.status >= 400 and self._unsent is not None:
                # Refused before all was said: what is unsaid would only be thrown away.
                self._stop_sending()
        crowded = reply.add(body) if body else False
        if framer.done:
            self._finish(reply)
        elif framer.fault is not None:
            self.fail(f"the provider's reply {framer.fault}")
        else:
            if crowded and not self._read_paused:
                self._pause()
            reply.wake()

    def _finish(self, reply: Reply) -> None:
        unfinished = self._unsent is not None or self._cut_short or self._write_paused or self._read_paused
        if self._framer.reusable and not unfinished:
            self.reply = None
            self._owner.connection_idle(self)
        else:
            self.drop()
        reply.end()

    def _leave(self) -> None:
        if not self.gone:
            self.gone = True
            self._stop_sending()
            self._owner.connection_gone(self)

    def _pause(self) -> None:
        self._read_paused = True
        self._transport.pause_reading()
        if self._secure:
            # A TLS transport reads on beneath a paused reader, and on the peer's end it would throw away what it has
            # not yet deciphered. With these limits it stops reading as soon as something lies there.
            self._transport.set_read_buffer_limits(high=1, low=0)  # type: ignore[attr-defined]

    def _widen(self) -> None:
        """Let a TLS transport gather whole records again."""
        if not self._read_paused and not self.gone:
            self._transport.set_read_buffer_limits()  # type: ignore[attr-defined]

    def _pump(self) -> None:
        """Hand on slices of the body while the transport takes them."""
        self._pump_handle = None
        while self._unsent is not None and not self._write_paused and not self._transport.is_closing():
            if self._peer_spoke():
                # Read first: writing to a peer that has answered and closed would lose its answer. (Only a reset that
                # arrives between this look and the write, microseconds apart, still does.)
                self._pump_handle = self._loop.call_soon(self._pump)
                return
            part, rest = self._unsent[:_SLICE], self._unsent[_SLICE:]
            self._unsent = rest if rest else None
            self.quiet = 0
            self._transport.write(part)

    def _stop_sending(self) -> None:
        if self._unsent is not None:
            self._unsent = None
            self._cut_short = True
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None

    def _said_goodbye(self) -> bool:
        """Whether TLS ended with close_notify. asyncio reports a bare TCP end, which anyone can forge, the same way."""
        try:
            return not self._transport.get_extra_info("ssl_object").read(1)
        except ssl.SSLError:
            return False

    def _peer_spoke(self) -> bool:
        """Whether bytes, an end or an error wait to be read from the socket."""
        if self._read_paused:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True
