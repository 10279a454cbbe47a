"""A reply on its way: filled by its connection, read by the relay."""

from __future__ import annotations

import asyncio
from typing import Protocol

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Headers

# At most 256 KiB wait per stream. One read of uvloop brings up to 250 KiB, so reading pauses once 6 KiB lie unread.
PAUSE_ABOVE = 6 * 1024


class Head(Protocol):
    """What a reply needs to know to begin. ``length`` is the body's as announced, else None."""

    status: int
    headers: Headers
    length: int | None
    event_stream: bool


class Source(Protocol):
    """What a reply needs of the connection that fills it."""

    def resume(self) -> None: ...
    def drop(self) -> None: ...


class Reply:
    """The :class:`llmguard.forward.engine.Incoming` of both engines. Header names are in lower case.

    A cancelled :meth:`next` loses nothing: what arrives meanwhile is there for the one after it.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_fault",
        "_hold",
        "_loop",
        "_size",
        "_source",
        "_waiter",
        "body",
        "headers",
        "status",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Source, hold_up_to: int) -> None:
        self._loop = loop
        self._source: Source | None = source
        self._hold = hold_up_to
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: Headers = []
        self.body: bytes | None = None

    async def ready(self) -> None:
        """Wait for the head, or for the whole body of a held reply. Raises what :meth:`fail` was given."""
        if self._fault is None and not self._ended and (self._hold or not self.status):
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._fault is not None and (self._hold or not self.status):
            raise self._fault

    async def next(self) -> bytes:
        while not self._size:
            if self._fault is not None:
                raise self._fault
            if self._ended:
                return b""
            self._waiter = self._loop.create_future()
            await self._waiter
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        crowded = self._size > PAUSE_ABOVE
        self._size = 0
        if crowded and self._source is not None:
            self._source.resume()
        return data

    def close(self) -> None:
        source = self._source
        if source is not None:
            self.fail(UpstreamError("the reply was closed before its end", sent=True))
            source.drop()

    # The connection's side.

    def open(self, head: Head) -> None:
        """The head has arrived. An event stream is never held, nor a body announced as too large."""
        self.status = head.status
        self.headers = head.headers
        if head.event_stream or (head.length or 0) > self._hold:
            self._hold = 0

    def add(self, body: bytes) -> bool:
        """More of the body has arrived. True when reading should pause."""
        self._chunks.append(body)
        self._size += len(body)
        if self._size <= self._hold:
            return False
        self._hold = 0
        return self._size > PAUSE_ABOVE

    def wake(self) -> None:
        """Let the reader go on, unless the reply is held and not complete."""
        waiter = self._waiter
        if waiter is not None and not (self._hold and not self._ended and self._fault is None):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def end(self) -> None:
        """The body is complete; the connection is no longer this reply's."""
        if self._hold:
            self.body = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
        self._ended = True
        self._source = None
        self.wake()

    def fail(self, fault: Exception) -> None:
        """The reply is cut short; what arrived before can still be read, unless it was held."""
        self._fault = fault
        self._source = None
        self.wake()
