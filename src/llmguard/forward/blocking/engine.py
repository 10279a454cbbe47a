"""What the blocking relay asks of an upstream engine: the twin of :mod:`llmguard.forward.engine`."""

from __future__ import annotations

from typing import Protocol

from llmguard.forward.engine import Headers, Outgoing


class CallerGone(BaseException):
    """The caller hung up while we waited for the provider. Not an error of anybody's: the call is closed and recorded.

    A BaseException, so that nobody between takes it for a failure of the provider.
    """


class Caller(Protocol):
    """The connection that a request came in by, for noticing its end while the provider is silent."""

    def fileno(self) -> int:
        """What to poll for reading, together with the provider's socket; -1 when there is nothing to look at."""
        ...

    def gone(self) -> bool:
        """Whether the caller has hung up; asked when its socket can be read. Must not wait."""
        ...


class Incoming(Protocol):
    """A reply whose head has arrived. Exactly one of: ``body`` is set, or the rest is read with :meth:`next`."""

    status: int
    headers: Headers
    body: bytes | None

    def next(self) -> bytes:
        """The next bytes as they arrived; ``b""`` is the correct end of the body.

        Raises :class:`llmguard.errors.UpstreamError` as the asynchronous twin does, and :class:`CallerGone`.
        """
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it. Idempotent, never waits."""
        ...


class Engine(Protocol):
    """Sends requests to one configured provider origin."""

    def send(self, request: Outgoing, caller: Caller | None) -> Incoming:
        """Send and wait for the head (and, with ``hold_up_to``, for a small enough body).

        Raises :class:`llmguard.errors.UpstreamError` and :class:`CallerGone`.
        """
        ...

    def close(self) -> None:
        """Drop idle connections, and let running ones end."""
        ...
