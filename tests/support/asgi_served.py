"""Applications as ASGI servers import them: the gateway alone, and mounted. `SERVED_CONFIG` names the configuration."""

from __future__ import annotations

import os
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

import llmguard
from llmguard.integrations.asgi import Authn, Meter, Quota

guard = llmguard.Guard(os.environ["SERVED_CONFIG"])
alone = llmguard.create_app(guard)


def _fastapi() -> FastAPI:
    app = FastAPI()
    app.get("/")(lambda: "host")
    app.mount("/llm", llmguard.create_app(guard))
    return app


def _starlette() -> Starlette:
    async def home(_request: Any) -> PlainTextResponse:
        return PlainTextResponse("host")

    inner = Mount("/deep", routes=[Mount("/b é", app=llmguard.create_app(guard))])
    return Starlette(routes=[Route("/", home), Mount("/a", app=llmguard.create_app(guard)), inner])


lazy = _fastapi()
fastapi = guard.lifespan(_fastapi())
starlette = guard.lifespan(_starlette())


async def forwarding(scope: Any, receive: Any, send: Any) -> None:
    """An application of somebody's own that passes LLM calls on; `UPSTREAM` is where to."""
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    client = httpx2.AsyncClient(timeout=30)
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "authorization")}
    path = os.environ["UPSTREAM"] + scope["path"]
    outgoing = client.build_request(request.method, path, headers=headers, content=await request.body())
    try:
        reply = await client.send(outgoing, stream=True)
        answer = StreamingResponse(reply.aiter_raw(), reply.status_code, dict(reply.headers))
        await answer(scope, receive, send)
    finally:
        await client.aclose()


async def _page(scope: Any, receive: Any, send: Any) -> None:
    app = PlainTextResponse("page") if scope["path"] == "/" else forwarding
    await app(scope, receive, send)


layered = guard.lifespan(Authn(Quota(Meter(_page, guard=guard), guard=guard), guard=guard))
