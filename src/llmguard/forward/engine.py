"""What the relay asks of an upstream engine, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

Headers = list[tuple[bytes, bytes]]
Fields = Sequence[tuple[bytes, bytes]]


class Outgoing(Struct, eq=False):
    """One request to a provider, complete.

    ``target`` is the origin-form request target (path and query). ``headers`` are the final ones save Host,
    Content-Length and Connection, which the engine writes. ``before_send`` is called once, synchronously, when a
    connection is at hand and just before the first byte is written; if it raises, nothing is sent and the error
    passes through. ``hold_up_to`` > 0 asks for the whole reply in one piece when it is no larger than that.
    """

    method: str
    target: bytes
    headers: Fields
    body: bytes
    before_send: Callable[[], None]
    hold_up_to: int = 0


class Incoming(Protocol):
    """A reply whose head has arrived. Exactly one of: ``body`` is set, or the rest is read with :meth:`next`."""

    status: int
    headers: Headers
    body: bytes | None

    async def next(self) -> bytes:
        """The next bytes as they arrived, never empty until the end; ``b""`` is the correct end of the body.

        Returns without suspending while bytes are waiting. Raises :class:`llmguard.errors.UpstreamError` when the
        reply is cut short, breaks framing, or stays silent longer than the read timeout.
        """
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it now. Idempotent, never waits."""
        ...


class Engine(Protocol):
    """Sends requests to one configured provider origin."""

    async def send(self, request: Outgoing) -> Incoming:
        """Send and wait for the head (and, with ``hold_up_to``, for a small enough body).

        Cancelling the caller drops the connection. Raises :class:`llmguard.errors.UpstreamError`.
        """
        ...

    async def aclose(self) -> None:
        """Drop idle connections, and running ones."""
        ...
