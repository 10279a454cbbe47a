"""The gateway as a pure ASGI application: edge checks, route, one body read, relay, reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

from llmguard.core.call import Call
from llmguard.core.decision import Refuse
from llmguard.errors import BadCall
from llmguard.forward.relay import Relay, Reply, refused
from llmguard.providers.routes import Op
from llmguard.proxy.callers import Caller, Callers, Receive
from llmguard.proxy.front import FALLBACK, Front, Head, bad_call, too_large
from llmguard.proxy.heads import MEMO
from llmguard.proxy.mounts import path_below
from llmguard.runtime.ids import uuid7

log = logging.getLogger("llmguard.proxy")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_SECONDS = 60.0
"""How long a caller may take to send its whole body."""
WRITE_SECONDS = 120.0
"""How long a caller may stall the reading of its reply."""
CALL_SECONDS = 3_600.0
"""How long one call may take from its body to its last byte."""

_NONE: Mapping[str, Any] = MappingProxyType({})


class HungUp(Exception):
    """The caller went away before its request was whole."""


class Gateway:
    """Serves LLM routes through a relay; ``front`` has the answers that need none."""

    def __init__(self, relay: Relay, front: Front) -> None:
        self._relay = relay
        self._front = front
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
                late = Refuse("request_timeout", 408, "the request took too long to arrive")
                await _send(refused(FALLBACK, late, event_id), scope["method"], send, caller)
        finally:
            self.callers.leave(caller)

    async def _answer(self, scope: Scope, receive: Receive, event_id: str, caller: Caller) -> Reply:
        memo, front = scope.get("extensions", _NONE).get(MEMO, _NONE), self._front
        head = memo.get(self) or front.read(
            scope["method"], path_below(scope), scope["query_string"], scope["headers"], event_id
        )
        if not isinstance(head, Head):
            return head
        if memo is not _NONE:
            memo[self] = head
        try:
            body = await _read_body(receive, front.limits.body)
        except BadCall as bad:
            return bad_call(head.dialect, bad, event_id)
        call = front.call(head, body, event_id)
        if not isinstance(call, Call):
            return call
        self.callers.listen(caller)
        caller.extend(CALL_SECONDS)
        if call.stream:
            caller.watch()
        if head.route.op is Op.MODELS:
            refusal = await self._relay.verify(call, head.dialect, head.secret, event_id)
            return front.models(head, event_id) if refusal is None else refused(head.dialect, refusal, event_id)
        return await self._relay(call, head.dialect, head.secret, event_id)


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
        raise too_large(limit)
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
