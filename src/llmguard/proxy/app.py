"""The gateway as a pure ASGI application: edge checks, route, one body read, relay, reply."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

from llmguard.core.call import Call, Request
from llmguard.core.decision import Refuse
from llmguard.core.edge import EdgeLimits, Violation, check_head, credential
from llmguard.core.ports import Dialect
from llmguard.errors import BadCall
from llmguard.forward.relay import Relay, Reply, refused
from llmguard.providers import registry
from llmguard.providers.objects import bind
from llmguard.providers.routes import Op, Route, RouteTable, spoken_family
from llmguard.proxy.callers import Caller, Callers, Receive
from llmguard.proxy.heads import MEMO
from llmguard.proxy.models import ModelList
from llmguard.proxy.mounts import path_below
from llmguard.runtime.ids import uuid7

log = logging.getLogger("llmguard.proxy")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Local = Callable[[str], "Reply | None"]

BODY_SECONDS = 60.0
"""How long a caller may take to send its whole body."""
WRITE_SECONDS = 120.0
"""How long a caller may stall the reading of its reply."""
CALL_SECONDS = 3_600.0
"""How long one call may take from its body to its last byte."""


_FALLBACK = registry.dialect("openai_chat", "openai")
"""Renders errors where no route is known."""
_NONE: Mapping[str, Any] = MappingProxyType({})


class HungUp(Exception):
    """The caller went away before its request was whole."""


class Head(Struct, eq=False):
    """What a request head says that is served: one for all requests with the same head, where the server tells.

    ``headers`` and ``raw`` are its fields as text by name and as they came; ``memo`` takes what others conclude from
    the head alone.
    """

    method: str
    query: str
    headers: Mapping[str, str]
    raw: Sequence[tuple[bytes, bytes]]
    route: Route
    dialect: Dialect
    secret: str | None
    memo: dict[Any, Any] = field(default_factory=dict)


class Gateway:
    """Serves LLM routes through a relay, and `/livez`, `/readyz`, `/metrics` through ``local``."""

    def __init__(
        self,
        relay: Relay,
        routes: RouteTable,
        local: Local,
        limits: EdgeLimits,
        models: ModelList,
    ) -> None:
        self._relay = relay
        self._models = models
        self._routes = routes
        self._local = local
        self._limits = limits
        self.callers = Callers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; other scope types are not for us."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application serves http, not {scope['type']}")
        event_id = uuid7()
        caller = self.callers.enter(receive, BODY_SECONDS)
        try:
            reply = await self._answer(scope, receive, event_id, caller)
            await _send(reply, scope["method"], send, caller)
        except HungUp:
            return
        except asyncio.CancelledError:
            if caller.gone is None:
                raise
            log.info("request %s ended: the caller %s", event_id, caller.gone.replace("_", " "))
            if caller.gone == "too_slow" and not caller.answered:
                late = self._bad(_FALLBACK, event_id, 408, "request_timeout", "the request took too long to arrive")
                await _send(late, scope["method"], send, caller)
        finally:
            self.callers.leave(caller)

    async def _answer(self, scope: Scope, receive: Receive, event_id: str, caller: Caller) -> Reply:
        memo = scope.get("extensions", _NONE).get(MEMO, _NONE)
        head = memo.get(self) or self._read_head(scope, event_id)
        if not isinstance(head, Head):
            return head
        if memo is not _NONE:
            memo[self] = head
        route, dialect = head.route, head.dialect
        request = Request(head.method, route.path, head.query, head.headers)
        try:
            request.body = await _read_body(receive, self._limits.body)
            call = bind(dialect.parse(request, route.endpoint, route.model), route)
        except BadCall as bad:
            return self._bad(dialect, event_id, bad.status, bad.code, bad.message, bad.param)
        call.raw_headers, call.memo = head.raw, head.memo
        self.callers.listen(caller)
        caller.extend(CALL_SECONDS)
        if call.stream:
            caller.watch()
        if route.op is Op.MODELS:
            return await self._list_models(call, route, dialect, head.secret, event_id)
        return await self._relay(call, dialect, head.secret, event_id)

    def _read_head(self, scope: Scope, event_id: str) -> Head | Reply:
        """Check a head and find its route; or the reply to one that goes nowhere."""
        method, raw_path = scope["method"], path_below(scope)
        headers = check_head(method, raw_path, scope["query_string"], scope["headers"], self._limits)
        if isinstance(headers, Violation):
            return self._bad(self._shape(method, raw_path), event_id, headers.status, headers.code, headers.message)
        path = raw_path.decode("ascii")
        if method == "GET" and (local := self._local(path)) is not None:
            return local
        route = self._routes.match(method, path, spoken_family(headers))
        if route is None:
            return self._bad(_FALLBACK, event_id, 404, "unknown_route", f"{method} {path} is not served here")
        dialect = registry.dialect(route.dialect, route.family)
        query = scope["query_string"].decode("ascii")
        return Head(method, query, headers, scope["headers"], route, dialect, credential(headers))

    def _shape(self, method: str, raw_path: bytes) -> Dialect:
        """The dialect to refuse a bad head in: that of its path, which is looked up and used for nothing else."""
        route = self._routes.match(method, raw_path.decode("latin-1"))
        return _FALLBACK if route is None else registry.dialect(route.dialect, route.family)

    async def _list_models(
        self, call: Call, route: Route, dialect: Dialect, secret: str | None, event_id: str
    ) -> Reply:
        answer = await self._relay.verify(call, dialect, secret, event_id)
        if answer is None:
            found = self._models.answer(route.family, route.model)
            if not isinstance(found, Refuse):
                return json_reply(200, found, event_id)
            answer = found
        return refused(dialect, answer, event_id)

    def _bad(
        self, dialect: Dialect, event_id: str, status: int, code: str, message: str, param: str | None = None
    ) -> Reply:
        return refused(dialect, Refuse(code, status, message, param=param), event_id)


async def _read_body(receive: Receive, limit: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body") and size <= limit:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            parts.append(part)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise HungUp
    if len(body) > limit:
        raise BadCall(f"the body is larger than {limit} bytes", code="body_too_large", status=413)
    return body


async def _send(reply: Reply, method: str, send: Send, caller: Caller) -> None:
    caller.answered = True
    if reply.body is not None:
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})
        return
    chunks = reply.chunks
    assert chunks is not None
    try:
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        async for chunk in chunks:
            caller.extend(WRITE_SECONDS)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            caller.extend(CALL_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        try:
            await chunks.aclose()
        finally:
            reply.release()


def json_reply(status: int, document: Any, event_id: str) -> Reply:
    """A small JSON answer of our own."""
    headers = [(b"content-type", b"application/json"), (b"x-llmguard-request-id", event_id.encode())]
    return Reply(status, headers, json.dumps(document).encode())
