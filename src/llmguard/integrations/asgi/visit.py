"""One request from the moment its outermost layer receives it: decide, let it in, and end it however it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import unquote

from llmguard.core.call import Caller
from llmguard.core.decision import Refuse, Replay
from llmguard.core.edge import Headers
from llmguard.core.exchange import Ending, Exchange
from llmguard.errors import GuardUnavailable
from llmguard.forward.relay import Reply, refused
from llmguard.forward.upstreams import renamed_path
from llmguard.integrations.asgi.listening import Listener
from llmguard.integrations.asgi.tap import Tap
from llmguard.integrations.layers import Chain, Desk, Layer, records
from llmguard.proxy.app import BODY_SECONDS, CALL_SECONDS, WRITE_SECONDS
from llmguard.proxy.callers import Callers
from llmguard.proxy.mounts import path_below
from llmguard.runtime.context import carrying
from llmguard.runtime.ids import uuid7
from llmguard.runtime.lifespan import ASGI, Message, Receive, Send
from llmguard.runtime.service import Service

log = logging.getLogger("llmguard.asgi")

_GONE = 499
_LATE = 408


class _HungUp(Exception):
    """The caller went away before its request was whole."""


class LoopDesk(Desk):
    """What the layers of a guard share in one event loop."""

    def __init__(self, service: Service, chain: Chain) -> None:
        super().__init__(chain.guard, service.owner)
        self.runtime = service.runtime
        self.callers = Callers()


def desk_of(service: Service, chain: Chain) -> LoopDesk:
    """The one desk of a guard's service."""
    desk = service.kept.get(LoopDesk)
    if not isinstance(desk, LoopDesk):
        desk = service.kept[LoopDesk] = LoopDesk(service, chain)
    return desk


class Visit:
    """A request that its layers look after: ``layers``, outermost first, of all those in ``chain``.

    ``followed``: its call is let in, and its reply will be metered.
    """

    def __init__(
        self, desk: LoopDesk, chain: Chain, layers: Sequence[Layer], scope: Message, receive: Receive, send: Send
    ) -> None:
        self.chain = chain
        self._layers = layers
        self._desk = desk
        self._runtime = desk.runtime
        self._scope = scope
        self._receive = receive
        self._send_out = send
        self._caller = desk.callers.add(Listener(receive, BODY_SECONDS))
        self._x: Exchange | None = None
        self._started = False
        self.followed = False

    async def run(self) -> None:
        """Serve the request. Whatever is raised, the call has been closed and recorded."""
        caller = self._caller
        try:
            reply = await self._serve()
            if reply is not None:
                await self._answer(reply)
        except _HungUp:
            caller.gone = "hung_up"
        except asyncio.CancelledError:
            if caller.gone is None:
                raise
            _take_back_cancel()
        except BaseException:
            self._close(Ending.UPSTREAM_FAILED)
            raise
        finally:
            self._close(self._ending())
            self._desk.callers.leave(caller)
        if caller.gone is not None and not self._started:
            log.info("a request ended before its reply: the caller %s", caller.gone.replace("_", " "))
            await self._answer(Reply(_LATE if caller.gone == "too_slow" else _GONE, [], b""))

    async def _serve(self) -> Reply | None:
        """Let the request in, or answer it."""
        scope, desk, caller = self._scope, self._desk, self._caller
        method, query, headers = scope["method"], scope["query_string"], scope["headers"]
        event_id = uuid7()
        head = desk.head(self._layers, method, path_below(scope), query, headers, event_id)
        if isinstance(head, Reply):
            return head
        body = await _read_body(self._receive, desk.body_limit)
        x = desk.exchange(self._layers, head, body, event_id, self._runtime.now())
        if isinstance(x, Reply):
            return x
        desk.callers.listen(caller)
        caller.extend(CALL_SECONDS)
        if x.call.stream:
            caller.watch()
        return await self._decide(x)

    async def _decide(self, x: Exchange) -> Reply | None:
        runtime = self._runtime
        runtime.enter(x)
        self._x = x
        decision = await runtime.run(x.open(x.now))
        if isinstance(decision, Refuse):
            runtime.close(x, Ending.DONE)
            return refused(x.dialect, decision, x.event_id)
        if isinstance(decision, Replay):
            runtime.close(x, Ending.DONE)
            await self._replay(decision)
            return None
        self.followed = records(x)
        if not self.followed:
            runtime.close(x, Ending.DONE)
        self._scope[self.chain.guard.scope_key] = self
        await self._let_in(x)
        return None

    async def _let_in(self, x: Exchange) -> None:
        """Have the application inside answer, with the body that the stages want it to see."""
        body = x.call.body
        if x.edits:
            body = x.dialect.rewrite(x.call, x.edits)
            _edit(self._scope, x, len(body))
        receive = self._caller.give(body)
        if self.followed:
            self._caller.drains = x.call.stream and self._desk.drains(self._layers, x.target.provider)
        if x.principal is None:
            await self.pass_through(self._layers[0], self._scope, receive, self._send)
            return
        who = x.who
        caller = Caller(who.org, who.team, who.env, who.feature, who.end_user, who.task_id, who.tree_id, who.trace_id)
        with carrying(caller):  # calls that the application makes meanwhile are this caller's, too
            await self.pass_through(self._layers[0], self._scope, receive, self._send)

    # ------------------------------------------------------------------ inward

    async def pass_through(self, layer: Layer, scope: Message, receive: Receive, send: Send) -> None:
        """Take the request through one of the layers, and through those that directly follow."""
        run = self.chain.run(layer)
        app: ASGI = run[-1].app
        if self.followed and self._layers[-1] in run:
            await self._meter(app, scope, receive, send)
        else:
            await app(scope, receive, send)

    async def _meter(self, app: ASGI, scope: Message, receive: Receive, send: Send) -> None:
        """Nothing but the application is further inside: its reply is read along."""
        x, runtime = self._x, self._runtime
        assert x is not None
        try:
            runtime.perform(x.dispatch())
        except GuardUnavailable as error:
            x.recall()
            runtime.close(x, Ending.CALLER_GONE)
            words = f"spend cannot be recorded now: {error}"
            await _send(
                refused(x.dialect, Refuse("accounting_unavailable", 503, words, retry_after=5), x.event_id), send
            )
            return
        scope["headers"] = [*_without(scope["headers"], b"accept-encoding"), (b"accept-encoding", b"identity")]
        try:
            await app(scope, receive, Tap(runtime, x, send, lambda: self._caller.cancel("cut")).send)
        except Exception:
            self._close(self._ending())  # middleware further out may end the reply as if it were whole
            raise

    # ------------------------------------------------------------------ outward

    async def _send(self, message: Message) -> None:
        """Hand a message to whatever is outside; drop it where the caller is gone and only its record is waited for."""
        caller = self._caller
        if caller.muted:
            if self._x is not None and self._x.event_id not in self._runtime.live:
                caller.stop()
            return
        self._started = True
        caller.extend(WRITE_SECONDS)
        await self._send_out(message)
        caller.extend(CALL_SECONDS)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            caller.over()

    async def _answer(self, reply: Reply) -> None:
        await _send(reply, self._send_out)

    async def _replay(self, replay: Replay) -> None:
        """Send a kept reply."""
        send = self._send
        await send({"type": "http.response.start", "status": replay.status, "headers": replay.headers})
        for chunk in replay.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _close(self, ending: Ending) -> None:
        if self._x is not None:
            self._runtime.close(self._x, ending)

    def _ending(self) -> Ending:
        """Why a call ends that has no record yet."""
        if self._x is None or not self._x.sent:  # somebody between the layers has answered
            return Ending.DONE
        return Ending.UPSTREAM_FAILED if self._caller.gone is None and not self._caller.muted else Ending.CALLER_GONE


def _take_back_cancel() -> None:
    """The cancellation was ours, and nobody further out is to hear of it."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


def _edit(scope: Message, x: Exchange, length: int) -> None:
    """Change a request in place, for routers and tracers share its scope: its length, and a model in its path."""
    headers = _without(scope["headers"], b"content-length", b"transfer-encoding")
    scope["headers"] = [*headers, (b"content-length", b"%d" % length)]
    path = x.call.path if x.call.model == x.target.model else renamed_path(x.call, x.target)
    raw: bytes = scope.get("raw_path") or b""
    if path is not x.call.path and raw.endswith(x.call.path.encode()):
        scope["raw_path"] = raw.removesuffix(x.call.path.encode()) + path.encode()
        scope["path"] = unquote(scope["raw_path"].decode("latin-1"))


def _without(headers: Headers, *names: bytes) -> list[tuple[bytes, bytes]]:
    return [field for field in headers if field[0] not in names]


async def _read_body(receive: Receive, limit: int) -> bytes:
    """The whole body, or a little more than ``limit`` of it."""
    parts, size, more = [], 0, True
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _HungUp
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(reply: Reply, send: Send) -> None:
    """Answer in one piece."""
    body = reply.body or b""
    headers = [*reply.headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
