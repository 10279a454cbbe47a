"""Applications as ASGI servers import them. `SERVED_CONFIG` names the configuration, `UPSTREAM` the provider's origin.

``doors`` has every ASGI door of one guard below a path of its own; the layers stand in several orders, with middleware
of others in between, around an application that forwards calls with a plain client.
"""

from __future__ import annotations

import os
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import llmguard
from llmguard.integrations.asgi import Audit, Authn, Cache, ContextMiddleware, Meter, Quota
from tests.support.asgi_parts import Tracing, gzip, pass_on

guard = llmguard.Guard(os.environ["SERVED_CONFIG"])
alone = llmguard.create_app(guard)


class Forwarding:
    """An application of somebody's own that passes LLM calls on to the provider."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with httpx2.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=60) as client:
            await pass_on(client, scope, receive, send)


def cors(app: Any) -> Any:
    return CORSMiddleware(app, allow_origins=["https://shop.example"], expose_headers=["x-llmguard-request-id"])


def authn(app: Any) -> Any:
    return Authn(app, guard=guard)


def quota(app: Any) -> Any:
    return Quota(app, guard=guard)


def cache(app: Any) -> Any:
    return Cache(app, guard=guard)


def meter(app: Any) -> Any:
    return Meter(app, guard=guard)


def audit(app: Any) -> Any:
    return Audit(app, guard=guard)


def host() -> FastAPI:
    """A FastAPI application with a page, layers over all of it, and a mounted gateway."""
    app = FastAPI()
    app.add_middleware(Meter, guard=guard)
    app.add_middleware(Cache, guard=guard)
    app.add_middleware(Tracing)
    app.add_middleware(Quota, guard=guard)
    app.add_middleware(Authn, guard=guard, routes=["/v1/*"])
    app.get("/stats")(lambda: {"page": "stats"})
    app.mount("/llm", llmguard.create_app(guard))
    app.mount("/", Forwarding())
    return app


def fastapi() -> FastAPI:
    """The gateway mounted in FastAPI, which nobody has told of the server's start."""
    app = FastAPI()
    app.get("/")(lambda: "host")
    app.mount("/llm", llmguard.create_app(guard))
    return app


async def home(_request: Request) -> PlainTextResponse:
    """A page, to see that the server is there."""
    return PlainTextResponse("host")


async def open_calls(_request: Request) -> PlainTextResponse:
    """How many calls are running."""
    return PlainTextResponse(str(len((await guard.service()).live)))


lazy = fastapi()
hosted = guard.lifespan(fastapi())
served = Starlette(
    routes=[
        Route("/", home),
        Route("/open", open_calls),
        Mount("/fastapi", fastapi()),
        Mount("/a", llmguard.create_app(guard)),
        Mount("/deep", routes=[Mount("/b é", app=llmguard.create_app(guard))]),
        Mount("/around", quota(meter(authn(llmguard.create_app(guard))))),
        Mount("/order1", authn(gzip(quota(cache(Tracing(meter(audit(Forwarding())))))))),
        Mount("/order2", gzip(audit(meter(cors(cache(authn(Tracing(quota(Forwarding()))))))))),
        Mount("/order3", Tracing(cache(quota(meter(audit(gzip(cors(authn(gzip(Forwarding())))))))))),
        Mount("/host", host()),
        Mount("/quota", ContextMiddleware(quota(Forwarding()), team="search", env="prod", feature="chat")),
        Mount("/meter", ContextMiddleware(meter(Forwarding()), team="search", env="prod", feature="chat")),
        Mount("/authn", authn(Forwarding())),
        Mount("/routes", Quota(authn(Forwarding()), guard=guard, routes=["/llm/*", "/v1/embeddings"])),
    ]
)
doors = guard.lifespan(served)
layered = guard.lifespan(
    Starlette(routes=[Route("/llm/readyz", home), Mount("/llm", authn(quota(meter(Forwarding()))))])
)
