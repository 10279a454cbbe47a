"""Applications as ASGI servers import them: the gateway alone, and mounted. `SERVED_CONFIG` names the configuration."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import llmguard

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
