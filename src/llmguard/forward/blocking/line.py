"""One connection to a provider as a thread uses it: every wait has a deadline and sees the caller hang up.

The socket never blocks. A wait polls it together with the caller's, so that a caller who leaves is noticed within a
moment also while the provider is silent. Only `select.poll` and `recv` are used, which gevent replaces by its own.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Mapping
from typing import NoReturn

from llmguard.errors import UpstreamError
from llmguard.forward.blocking.engine import Caller, CallerGone
from llmguard.forward.dns import Endpoint, resolve_now
from llmguard.forward.options import Origin, Timeouts

_READ = 64 * 1024
_ASK_S = 0.25
"""How often a caller is asked after whose connection cannot be polled."""
_ENDED = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL


class TooLate(Exception):
    """A deadline passed."""


def open_line(origin: Origin, timeouts: Timeouts, context: ssl.SSLContext | None) -> Line:
    """A fresh connection. ``context`` is set for https only.

    Raises UpstreamError with ``sent`` False: 504 when it took too long, 502 for everything else.
    """
    deadline = time.monotonic() + timeouts.connect
    try:
        line = Line(_first_that_answers(resolve_now(origin.host, origin.port, internal=origin.internal), deadline))
    except TimeoutError as error:
        _refuse(origin, f"did not answer within {timeouts.connect:g} s", error, status=504)
    except OSError as error:
        _refuse(origin, f"cannot be reached: {error}", error)
    if context is not None:
        _secure(line, origin, timeouts, context)
    return line


def _first_that_answers(endpoints: list[Endpoint], deadline: float) -> socket.socket:
    """Try each address in turn, each with an even share of the time that is left; the last one speaks for all."""
    for left in range(len(endpoints), 1, -1):
        try:
            return _connect(endpoints[-left], (deadline - time.monotonic()) / left)
        except OSError:
            continue
    return _connect(endpoints[-1], deadline - time.monotonic())


def _connect(endpoint: Endpoint, seconds: float) -> socket.socket:
    family, address = endpoint
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(max(seconds, 0.001))
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _secure(line: Line, origin: Origin, timeouts: Timeouts, context: ssl.SSLContext) -> None:
    try:
        line.secure(context, origin.host, timeouts.tls)
    except ssl.SSLCertVerificationError as error:
        _refuse(origin, f"has a certificate that is not trusted: {error.verify_message}", error)
    except TimeoutError as error:
        _refuse(origin, f"did not finish the TLS handshake within {timeouts.tls:g} s", error, status=504)
    except OSError as error:
        _refuse(origin, f"broke the TLS handshake: {error}", error)


def _refuse(origin: Origin, reason: str, error: OSError, *, status: int = 502) -> NoReturn:
    raise UpstreamError(f"{origin.authority} {reason}", sent=False, status=status) from error


class Line:
    """A connected socket, plain or under TLS. ``secured`` says which."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._plain: int = sock.fileno()
        self.secured = False
        sock.setblocking(False)

    def secure(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Shake hands. Raises OSError (ssl.SSLError, TimeoutError), and the line is closed."""
        self._sock.settimeout(seconds)
        try:
            self._sock = context.wrap_socket(self._sock, server_hostname=host, suppress_ragged_eofs=False)
        except BaseException:
            self._sock.close()
            raise
        self._sock.setblocking(False)
        self.secured = True

    def write(self, data: bytes, deadline: float, caller: Caller | None) -> bool:
        """Send ``data``. False when the peer spoke before it had heard all, so that what it says is read first.

        Raises TooLate, CallerGone, OSError.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                if self._wait(select.POLLIN | select.POLLOUT, deadline, caller) & select.POLLIN:
                    return False
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline, caller)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline, caller)
        return True

    def read(self, deadline: float, caller: Caller | None) -> bytes:
        """The next bytes, empty at the peer's end. Raises TooLate, CallerGone, OSError."""
        while True:
            try:
                return self._sock.recv(_READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            self._wait(wanted, deadline, caller)

    def spoke(self) -> bool:
        """Whether bytes, an end or an error wait to be read where nothing is expected."""
        poll = select.poll()
        poll.register(self._plain, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close now. Idempotent."""
        self._sock.close()

    def _wait(self, events: int, deadline: float, caller: Caller | None) -> int:
        """Until the socket is ready for ``events``; returns those that came."""
        watch = Watch(caller)
        while True:
            left = deadline - time.monotonic()
            ready = watch.poll(left, {self._plain: events})
            if self._plain in ready:
                return ready[self._plain]
            if left <= 0:
                raise TooLate


class Watch:
    """Looks at a caller while something else is waited for."""

    def __init__(self, caller: Caller | None) -> None:
        self._caller = caller
        self._number = -1 if caller is None else caller.fileno()
        self._asks = caller is not None and self._number < 0

    def poll(self, seconds: float, others: Mapping[int, int]) -> dict[int, int]:
        """Wait for one of ``others`` (descriptors and their events), the caller, or so many seconds.

        Raises CallerGone.
        """
        poll = select.poll()
        for number, events in others.items():
            poll.register(number, events)
        if self._number >= 0:
            poll.register(self._number, select.POLLIN)
        ready = dict(poll.poll(max(min(seconds, _ASK_S) if self._asks else seconds, 0) * 1000))
        if self._caller is not None and (self._asks or ready.get(self._number, 0) & _ENDED):
            if self._caller.gone():
                raise CallerGone
            self._number = -1  # the next request of a caller who is still there
        return ready
