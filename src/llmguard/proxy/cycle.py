"""One HTTP request and its response, as an ASGI application receives and sends them; the response's framing.

The head of a response waits for the first bytes of its body, so that both leave in one write and an application that
fails in between can still be answered with an error. Only the head of a body without a length is sent at once.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from llmguard.runtime.ids import uuid7

if TYPE_CHECKING:
    from llmguard.proxy.protocol import HttpProtocol

log = logging.getLogger("llmguard.proxy")

Fault = tuple[int, str, str]
"""Why the server itself answers a request: status, code and message."""
Fields = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
ASGI = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

STATUS_LINES = {status: b"HTTP/1.1 %d " % status for status in range(200, 600)} | {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in http.HTTPStatus if status >= 200
}
_TEXT = bytes({*b"\t", *range(0x20, 0x100)} - {0x7F})
_NAME = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"  # ASGI wants lower case
# The server's to write: an application's own are dropped.
_OWN_FIELDS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_OWN_FIELDS_204 = _OWN_FIELDS | {b"content-length"}

NO_BODY, LENGTH, CHUNKED, CLOSE = range(4)
"""How the end of a response's body is marked."""


class Cycle(Struct, eq=False):
    """A request whose head has arrived.

    ``whole``: its body has arrived, too; ``unread``: bytes of it that the application has not received. ``gone``: the
    caller hung up, what is sent is dropped. ``answered``: part of the response was written; ``complete``: all of it.
    ``keep_alive``: the connection may carry another request afterwards. ``task`` runs the application.
    """

    connection: HttpProtocol
    scope: Message
    keep_alive: bool
    task: asyncio.Task[None] | None = None
    unread: int = 0
    whole: bool = False
    gone: bool = False
    answered: bool = False
    complete: bool = False
    framing: int = NO_BODY
    _parts: list[bytes] = field(default_factory=list)
    _end_received: bool = False
    _invited: bool = False
    _started: bool = False
    _head: bytes = b""
    _left: int = 0

    def add(self, body: bytes) -> None:
        """Bytes of the request's body arrived."""
        self._parts.append(body)
        self.unread += len(body)

    def expects_continue(self) -> bool:
        """Whether the caller waits for `100 Continue` before it sends its body."""
        return self.scope["http_version"] == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.scope["headers"]
        )

    async def run(self, application: ASGI) -> None:
        """Have the application answer. Its errors are logged; what the caller sees of them is the connection's part."""
        try:
            await application(self.scope, self.receive, self.send)
            if not self.complete and not self.gone:
                log.error("the application returned before its response was complete")
        except Exception:
            log.exception("the application failed")
        finally:
            self.connection.left(self)

    async def receive(self) -> Message:
        """The next bytes of the body; after them, the end of the exchange by either side."""
        connection = self.connection
        while not self.gone and not self.complete:
            if self._parts or (self.whole and not self._end_received):
                body = b"".join(self._parts)
                self._parts.clear()
                self.unread = 0
                self._end_received = self.whole
                connection.consumed(len(body))
                return {"type": "http.request", "body": body, "more_body": not self.whole}
            if not self.whole and not self._invited and not self._started and self.expects_continue():
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._invited = True
            await connection.changed()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Write a part of the response, after waiting for a slow reader; dropped where the caller is gone.

        Raises RuntimeError for a message that does not belong here and a body that is not as long as its head says,
        ValueError for a status or header field that cannot be written.
        """
        connection = self.connection
        while connection.writing_paused and not self.gone:
            await connection.changed()
        if self.gone:
            return
        kind = message["type"]
        if kind == "http.response.body" and self._started and not self.complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self._started:
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"the application may not send {kind} here")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if status not in STATUS_LINES:
            raise ValueError(f"{status} is not the status of a response")
        fields = [*self.connection.server_state.default_headers, *headers]
        by_name = dict(fields)
        if b"" in by_name or b"".join(by_name).translate(None, _NAME):
            raise ValueError("a header field of the response has a name that is not one in lower case")
        own = _OWN_FIELDS_204 if status == 204 else _OWN_FIELDS
        if not own.isdisjoint(by_name):
            fields = [item for item in fields if item[0] not in own]
        if len(by_name) < len(fields) and [name for name, _ in fields].count(b"content-length") > 1:
            raise ValueError("the response has two content-lengths")
        self._choose_framing(status, by_name.get(b"content-length"))
        if self.framing == CHUNKED:
            fields.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive or not self.whole:
            self.keep_alive = False
            fields.append((b"connection", b"close"))
        self._head = encode_head(status, fields)
        self._started = True
        if self.framing >= CHUNKED:
            self._write(b"", more=True)

    def _choose_framing(self, status: int, length: bytes | None) -> None:
        if length is not None and not length.isdigit():
            raise ValueError("content-length is not a decimal number")
        if status in (204, 304) or self.scope["method"] == "HEAD":
            self.framing = NO_BODY
        elif length is not None:
            self.framing = LENGTH
            self._left = int(length)
        elif self.scope["http_version"] == "1.1":
            self.framing = CHUNKED
        else:
            self.framing = CLOSE

    def _write(self, body: bytes, *, more: bool) -> None:
        data = self._head
        if self.framing == LENGTH:
            data += body
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body of the response is not as long as its head says")
        elif self.framing == CHUNKED:
            if body:
                data += b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                data += b"0\r\n\r\n"
        elif self.framing == CLOSE:
            data += body
        elif more:
            return
        if data:
            self._head = b""
            self.answered = True
            self.connection.transport.write(data)
        if not more:
            self.complete = True
            self.connection.finished(self)


def encode_head(status: int, fields: Fields) -> bytes:
    """The head of a response. Raises ValueError where a field would break it; names must have been checked."""
    lines = b"\r\n".join([STATUS_LINES[status], *map(b": ".join, fields), b"\r\n"])
    if lines.translate(None, _TEXT) != b"\r\n" * (len(fields) + 2):
        raise ValueError("a header field of the response has a character that may not stand in it")
    return lines


def encode_fault(fault: Fault, fields: Fields) -> bytes:
    """The response to a request that no application has answered, with ``fields`` in its head."""
    status, code, message = fault
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()
    own = [
        (b"content-type", b"application/json"),
        (b"connection", b"close"),
        (b"x-llmguard-request-id", uuid7().encode()),
        (b"content-length", b"%d" % len(body)),
    ]
    return encode_head(status, [*fields, *own]) + body
