"""The ASGI doors of two guards in one application; their configurations are `SERVED_CONFIG` and `SECOND_CONFIG`."""

from __future__ import annotations

import os
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route

import llmguard
from llmguard.integrations.asgi import Audit, Authn, Cache, Meter, Quota
from tests.support.asgi_parts import Tracing, gzip, pass_on

first = llmguard.Guard(os.environ["SERVED_CONFIG"])
second = llmguard.Guard(os.environ["SECOND_CONFIG"])
client = httpx2.AsyncClient(base_url=os.environ["SERVED_PROVIDER"], timeout=float(os.environ["SERVED_PATIENCE"]))


async def forwarding(scope: Any, receive: Any, send: Any) -> None:
    """An application of somebody's own that passes LLM calls on to the provider."""
    await pass_on(client, scope, receive, send)


def cors(app: Any) -> Any:
    return CORSMiddleware(app, allow_origins=["https://shop.example"])


def around(guard: llmguard.Guard) -> list[BaseRoute]:
    """The five layers of a guard in three orders, with middleware of others between."""

    def layer(kind: Any, app: Any) -> Any:
        return kind(app, guard=guard)

    one = layer(Cache, Tracing(layer(Meter, layer(Audit, forwarding))))
    one = layer(Authn, gzip(cors(layer(Quota, one))))
    two = layer(Cache, layer(Authn, Tracing(layer(Quota, forwarding))))
    two = gzip(layer(Audit, layer(Meter, cors(two))))
    three = layer(Audit, gzip(cors(layer(Authn, gzip(forwarding)))))
    three = Tracing(layer(Cache, layer(Quota, layer(Meter, three))))
    return [Mount(f"/order{number}", app) for number, app in enumerate((one, two, three), 1)]


def mounted(guard: llmguard.Guard) -> list[BaseRoute]:
    """The gateway of a guard below four paths, one of them in FastAPI."""
    fastapi = FastAPI()
    fastapi.mount("/llm", llmguard.create_app(guard))
    return [
        Mount("/fastapi", fastapi),
        Mount("/a", llmguard.create_app(guard)),
        Mount("/deep", routes=[Mount("/b é", app=llmguard.create_app(guard))]),
    ]


async def home(_request: Request) -> PlainTextResponse:
    """For whoever starts the server."""
    return PlainTextResponse("ready")


def doors(guard: llmguard.Guard) -> list[BaseRoute]:
    return [*mounted(guard), *around(guard)]


app = Starlette(routes=[Route("/", home), Mount("/second", routes=doors(second)), *doors(first)])
application = first.lifespan(second.lifespan(app))
