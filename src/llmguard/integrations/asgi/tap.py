"""What the innermost layer does with the reply of the application inside: read along, record, hand on."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import usd_string
from llmguard.forward.engine import Headers
from llmguard.forward.large import LargeReply
from llmguard.forward.relay import content_type, kept_type
from llmguard.forward.upstreams import HOLD_UP_TO
from llmguard.integrations.layers import own_headers, streams
from llmguard.runtime.aio import AsyncRuntime
from llmguard.runtime.lifespan import Message, Send


class Way(Enum):
    """How a reply goes on to the caller."""

    HELD = auto()
    STREAM = auto()
    LARGE = auto()


class Tap:
    """The ``send`` of one reply. Its record is written before its terminal event or last byte goes on.

    A small whole reply is held until it is complete, so that its head can say what it cost. ``stop`` ends the
    application inside when a stream is cut.
    """

    def __init__(self, runtime: AsyncRuntime, x: Exchange, send: Send, stop: Callable[[], None]) -> None:
        self._runtime = runtime
        self._x = x
        self._send = send
        self._stop = stop
        self._start: Message = {}
        self._way = Way.HELD
        self._parts: list[bytes] = []
        self._held = 0
        self._large: LargeReply | None = None
        self._behind = b""
        self._over = False

    async def send(self, message: Message) -> None:
        """The next message of the application."""
        kind = message["type"]
        if self._over:
            return
        if kind == "http.response.start":
            await self._begin(message)
        elif kind == "http.response.body":
            await self._body(message.get("body", b""), more=message.get("more_body", False))
        else:
            await self._send(message)

    async def _begin(self, start: Message) -> None:
        x, headers, status = self._x, list(start.get("headers", ())), start["status"]
        x.answer(status, self._runtime.now())
        if x.tape is not None:
            x.tape.content_type = kept_type(headers)
        headers.extend(own_headers(x))
        self._start = {**start, "headers": headers}
        if streams(x, status, headers):
            self._way = Way.STREAM
            self._start["headers"] = [field for field in headers if field[0] != b"content-length"]
            await self._send(self._start)

    async def _body(self, data: bytes, *, more: bool) -> None:
        if self._way is Way.STREAM:
            await self._stream(data, more=more)
        elif self._way is Way.LARGE:
            await self._one_behind(data, more=more)
        else:
            await self._hold(data, more=more)

    async def _hold(self, data: bytes, *, more: bool) -> None:
        x, runtime = self._x, self._runtime
        self._parts.append(data)
        self._held += len(data)
        if self._held > HOLD_UP_TO:
            self._way, self._large = Way.LARGE, LargeReply()
            await self._send(self._start)
            parts, self._parts = b"".join(self._parts), []
            await self._one_behind(parts, more=more)
        elif not more:
            headers: Headers = self._start["headers"]
            body = b"".join(self._parts)
            x.whole(content_type(headers), body, runtime.now())
            self._close(Ending.DONE)
            if x.cost is not None:
                self._start["headers"] = [*headers, (b"x-llmguard-cost-usd", usd_string(x.cost.total).encode())]
            await self._send(self._start)
            await self._last(body)

    async def _one_behind(self, data: bytes, *, more: bool) -> None:
        """A reply too large to hold; its last piece waits for the record."""
        x, behind, large = self._x, self._behind, self._large
        assert large is not None
        large.feed(data)
        self._behind = data
        if not more:
            large.end(x, content_type(self._start["headers"]), self._runtime.now())
            self._close(Ending.DONE)
            await self._last(behind + data)
        elif behind:
            await self._send({"type": "http.response.body", "body": behind, "more_body": True})

    async def _stream(self, data: bytes, *, more: bool) -> None:
        x, runtime, reader = self._x, self._runtime, self._x.reader
        assert reader is not None
        out = x.feed(data, runtime.now()) if data else b""
        if x.due and (refusal := await runtime.run(x.attend())) is not None:
            self._close(Ending.BUDGET_CUT)
            await self._last(out + reader.cut(refusal, x.event_id))
            self._stop()
            return
        if reader.finished or not more:
            self._close(Ending.DONE)
            out += reader.flush()
        if not more:
            await self._last(out)
        elif out:
            await self._send({"type": "http.response.body", "body": out, "more_body": True})

    async def _last(self, body: bytes) -> None:
        self._over = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _close(self, ending: Ending) -> None:
        self._runtime.close(self._x, ending)
