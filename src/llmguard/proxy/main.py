"""The gateway as an application with a life: it starts with the server's lifespan, or else with its first request."""

from __future__ import annotations

import json

from llmguard.errors import LLMGuardError
from llmguard.forward.relay import Reply
from llmguard.guard import Guard
from llmguard.proxy.app import Gateway, Local, Scope, Send
from llmguard.proxy.build import build_gateway
from llmguard.proxy.callers import Receive
from llmguard.proxy.mounts import check_layers, check_mounts
from llmguard.runtime.samples import samples
from llmguard.runtime.service import Service
from llmguard.sinks import prometheus

_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class Application:
    """ASGI application, served alone or mounted anywhere, in any number of event loops and processes.

    All applications of one guard (``gateway_of``) share its service. Set ``draining`` to answer `/readyz` with 503
    before connections are drained.
    """

    def __init__(self, guard: Guard) -> None:
        self.gateway_of = guard
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "realtime sessions are not served"})
        else:
            check_layers(scope, self.gateway_of.scope_key)
            service = self.gateway_of.running()
            if service is None:
                service = await self.gateway_of.late_service()
            gateway = service.kept.get(self)
            if gateway is None:
                check_mounts(scope.get("app"), self)
                gateway = service.kept[self] = build_gateway(self.gateway_of, service, self._local(service))
            assert isinstance(gateway, Gateway)
            await gateway(scope, receive, send)

    async def started(self) -> None:
        """Called once the service runs; for those who serve this application."""

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.gateway_of.service()
        except LLMGuardError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await self.started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.draining = True
        await self.gateway_of.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _local(self, service: Service) -> Local:
        """What this process says of itself."""

        def answer(path: str) -> Reply | None:
            if path == "/livez":
                return Reply(200, _JSON, b'{"status":"alive"}')
            if path == "/readyz":
                reasons = ["shutting down"] if self.draining else service.not_ready()
                body = json.dumps({"status": "not ready" if reasons else "ready", "reasons": reasons}).encode()
                return Reply(503 if reasons else 200, _JSON, body)
            if path == "/metrics":
                content_type = (b"content-type", prometheus.CONTENT_TYPE)
                return Reply(200, [content_type], prometheus.render(samples(service)))
            return None

        return answer
