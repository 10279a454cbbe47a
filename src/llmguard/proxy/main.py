"""The gateway as an application with a life: it starts with the server's lifespan, or else with its first request."""

from __future__ import annotations

import asyncio
import json

from llmguard.errors import LLMGuardError
from llmguard.forward.relay import Reply
from llmguard.guard import Guard
from llmguard.proxy.app import Gateway, Scope, Send
from llmguard.proxy.build import build_gateway
from llmguard.proxy.callers import Receive
from llmguard.runtime.samples import samples
from llmguard.runtime.service import Service
from llmguard.sinks import prometheus

_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class Application:
    """ASGI application. Set ``draining`` to answer `/readyz` with 503 before connections are drained."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._gateway: Gateway | None = None
        self._service: Service | None = None
        self._starting: asyncio.Lock | None = None
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "realtime sessions are not served"})
        else:
            gateway = self._gateway or await self._start()
            await gateway(scope, receive, send)

    async def started(self) -> None:
        """Called once the service runs; for those who serve this application."""

    async def _start(self) -> Gateway:
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._gateway is None:
                self._service = await self._guard.start()
                self._gateway = build_gateway(self._guard, self._service, self._local)
        return self._gateway

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except LLMGuardError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await self.started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.draining = True
        if self._service is not None:
            await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _local(self, path: str) -> Reply | None:
        service = self._service
        if service is None:
            return None
        if path == "/livez":
            return Reply(200, _JSON, b'{"status":"alive"}')
        if path == "/readyz":
            reasons = ["shutting down"] if self.draining else service.not_ready()
            body = json.dumps({"status": "not ready" if reasons else "ready", "reasons": reasons}).encode()
            return Reply(503 if reasons else 200, _JSON, body)
        if path == "/metrics":
            return Reply(200, [(b"content-type", prometheus.CONTENT_TYPE)], prometheus.render(samples(service)))
        return None
