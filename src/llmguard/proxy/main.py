"""The gateway as an application with a life: it starts with the server's lifespan, or else with its first request."""

from __future__ import annotations

from llmguard.errors import LLMGuardError
from llmguard.forward.relay import Reply
from llmguard.guard import Guard
from llmguard.proxy.app import Gateway, Scope, Send
from llmguard.proxy.callers import Receive
from llmguard.proxy.front import Front, Local, probes
from llmguard.proxy.mounts import check_layers, check_mounts
from llmguard.runtime.samples import samples
from llmguard.runtime.service import Service
from llmguard.sinks import prometheus


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
                front = Front(self.gateway_of, self._local(service))
                gateway = service.kept[self] = Gateway(self.gateway_of.relay(service), front)
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

        probe = probes(lambda: ["shutting down"] if self.draining else service.not_ready())

        def answer(path: str) -> Reply | None:
            if path == "/metrics":
                return Reply(200, [(b"content-type", prometheus.CONTENT_TYPE)], prometheus.render(samples(service)))
            return probe(path)

        return answer
