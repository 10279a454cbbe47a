"""What applications have beside the guard: one that calls a provider itself, and middleware of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse


async def pass_on(client: httpx2.AsyncClient, scope: Any, receive: Any, send: Any) -> None:
    """What an application of somebody's own does that passes LLM calls on to its provider."""
    request = Request(scope, receive)
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "authorization")}
    target = scope["path"].removeprefix(scope.get("root_path", ""))
    outgoing = client.build_request(request.method, target, headers=headers, content=await request.body())
    reply = await client.send(outgoing, stream=True)
    try:
        await StreamingResponse(reply.aiter_raw(), reply.status_code, dict(reply.headers))(scope, receive, send)
    finally:
        await reply.aclose()


class Tracing(BaseHTTPMiddleware):
    """What many applications have: reads the request, and adds a header to the reply."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Any]) -> Any:
        await request.body()
        reply = await call_next(request)
        reply.headers["x-traced"] = "yes"
        return reply


def gzip(app: Any) -> Any:
    return GZipMiddleware(app, minimum_size=1)
