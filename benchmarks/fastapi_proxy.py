"""The proxy people write first: FastAPI in front, one shared httpx client behind, nothing governed.

Run by uvicorn; ``UPSTREAM`` is the origin calls go to. Bodies pass as bytes, which is kinder to it than the usual
decode and encode.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

_FORWARDED = ("authorization", "content-type", "accept")
_RETURNED = ("content-type", "openai-processing-ms", "x-request-id")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client, with its pool, for the life of the app."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=60, limits=limits) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Forward one chat call; a stream is passed on chunk by chunk."""
    client: httpx.AsyncClient = request.app.state.client
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    outgoing = client.build_request("POST", request.url.path, content=await request.body(), headers=headers)
    reply = await client.send(outgoing, stream=True)
    returned = {name: reply.headers[name] for name in _RETURNED if name in reply.headers}
    if reply.headers["content-type"].startswith("text/event-stream"):
        return StreamingResponse(
            reply.aiter_bytes(), reply.status_code, headers=returned, background=BackgroundTask(reply.aclose)
        )
    return Response(await reply.aread(), reply.status_code, headers=returned)
