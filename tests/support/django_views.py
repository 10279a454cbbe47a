"""Views that ask a provider with SDK clients of their own: whole and streamed, synchronous and asynchronous."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

URL = os.environ.get("SERVED_PROVIDER", "http://127.0.0.1:9") + "/v1/chat/completions"


def body(stream: bool) -> dict[str, Any]:
    """A small chat call."""
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 200,
        "stream": stream,
    }


def attribution(request: HttpRequest) -> dict[str, str]:
    """The team that the caller says it is."""
    return {"team": request.headers.get("x-team", "web"), "env": "prod", "feature": request.path.strip("/") or "home"}


def home(request: HttpRequest) -> HttpResponse:
    """Nothing."""
    return HttpResponse("host")


def ask(request: HttpRequest) -> HttpResponse:
    """A whole reply."""
    reply = httpx2.post(URL, json=body(False), headers={"authorization": "Bearer own"}, timeout=20)
    return HttpResponse(reply.content, status=reply.status_code)


@transaction.non_atomic_requests
async def aask(request: HttpRequest) -> HttpResponse:
    """The same in an event loop."""
    async with httpx2.AsyncClient(timeout=20) as client:
        reply = await client.post(URL, json=body(False), headers={"authorization": "Bearer own"})
    return HttpResponse(reply.content, status=reply.status_code)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """A streamed reply, whose call begins after the view has returned."""

    def chunks() -> Iterator[bytes]:
        headers = {"authorization": "Bearer own"}
        with httpx2.stream("POST", URL, json=body(True), headers=headers, timeout=20) as reply:
            yield from reply.iter_raw()

    return StreamingHttpResponse(chunks(), headers={"content-encoding": "identity"})


@transaction.non_atomic_requests
async def astream(request: HttpRequest) -> StreamingHttpResponse:
    """The same in an event loop."""

    async def chunks() -> AsyncIterator[bytes]:
        headers = {"authorization": "Bearer own"}
        async with (
            httpx2.AsyncClient(timeout=20) as client,
            client.stream("POST", URL, json=body(True), headers=headers) as reply,
        ):
            async for chunk in reply.aiter_raw():
                yield chunk

    return StreamingHttpResponse(chunks(), headers={"content-encoding": "identity"})
