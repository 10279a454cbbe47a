"""Attribution of ASGI requests: the SDK calls that an application makes are charged to whom the request is from."""

from __future__ import annotations

from llmguard.guard import Guard
from llmguard.integrations.requests import CONTEXT_HEADER, Attribution, RequestContext
from llmguard.runtime.lifespan import ASGI, Message, Receive, Send

_HEADER = CONTEXT_HEADER.encode()


class ContextMiddleware:
    """Puts the code that answers a request into a :func:`llmguard.context` of its own.

    ``attribution`` is a function of the ASGI scope, called inside whatever authenticates (``scope["user"]``), that says
    some of `team`, `env`, `feature`, `end_user`; the keyword arguments of these names are for what is always the same.
    Streaming bodies, background tasks and threads of the framework run in the same context.
    """

    def __init__(
        self,
        app: ASGI,
        *,
        guard: Guard | None = None,
        attribution: Attribution | None = None,
        team: str | None = None,
        env: str | None = None,
        feature: str | None = None,
        end_user: str | None = None,
    ) -> None:
        self.app = app
        names = {"team": team, "env": env, "feature": feature, "end_user": end_user}
        self._context = RequestContext(guard, attribution, names)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        signed = next((value for name, value in scope["headers"] if name == _HEADER), None)
        with self._context.enter(scope, None if signed is None else signed.decode("latin-1")):
            await self.app(scope, receive, send)
