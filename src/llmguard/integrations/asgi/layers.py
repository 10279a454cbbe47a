"""The guard's concerns as separate ASGI middleware: ``Authn(Quota(Meter(app)))``."""

from __future__ import annotations

from llmguard.guard import Guard
from llmguard.integrations import layers
from llmguard.integrations.asgi.visit import Visit, desk_of
from llmguard.integrations.layers import LEFT, Left, misplaced
from llmguard.proxy.mounts import decoded_below
from llmguard.runtime.lifespan import ASGI, Message, Receive, Send


class Layer(layers.Layer):
    """See :class:`llmguard.integrations.layers.Layer`: what all layers take, and how they find each other."""

    app: ASGI

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection scope; whatever is no HTTP request passes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        guard = self.guard
        visit: Visit | Left | None = scope.get(guard.scope_key)
        if visit is None:
            await self._receive(guard, scope, receive, send)
        elif isinstance(visit, Left):
            await self.app(scope, receive, send)
        elif self in visit.chain.layers:
            await visit.pass_through(self, scope, receive, send)
        else:
            raise misplaced(self)

    async def _receive(self, guard: Guard, scope: Message, receive: Receive, send: Send) -> None:
        """A request that no layer of this guard has seen: this one is the outermost."""
        chain, path = self.chain(guard), decoded_below(scope)
        chosen = () if chain.leaves(path) else chain.chosen(path)
        if self not in chosen:
            app = self.app
            if chain.leaves(path):
                scope[guard.scope_key] = LEFT
                app = chain.run(self)[-1].app
            await app(scope, receive, send)
            return
        service = guard.running() or await guard.late_service()
        await Visit(desk_of(service, chain), chain, chosen, scope, receive, send).run()


class Authn(Layer):
    """Verifies the callers' keys and attributes their calls; also those that the application makes meanwhile."""

    concern = "authn"


class Quota(Layer):
    """Reserves before a call, settles after it, refuses what does not fit; with everything that takes: prices, tenancy,
    runaway rules, records."""

    concern = "quota"


class Cache(Layer):
    """Answers a call with what the same call was answered before; see `cache:` in the configuration."""

    concern = "cache"


class Meter(Layer):
    """Records what calls use and cost. On its own it counts towards the budgets and refuses nothing."""

    concern = "meter"


class Audit(Layer):
    """Keeps what calls say and hear; see `audit:` in the configuration."""

    concern = "audit"
