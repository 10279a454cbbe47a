"""A FastAPI application whose views call an LLM with an SDK. `SERVED_CONFIG` and `UPSTREAM` are as ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

import anyio.to_thread
import openai
from fastapi import BackgroundTasks, FastAPI, Header
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

import llmguard
from llmguard.integrations.fastapi import Remaining, add_exception_handlers, attribute, lifespan, remaining

guard = llmguard.configure(os.environ["SERVED_CONFIG"])
client = openai.OpenAI(
    base_url=os.environ["UPSTREAM"] + "/v1", api_key="k", max_retries=0, http_client=llmguard.http_client()
)
async_client = openai.AsyncOpenAI(
    base_url=os.environ["UPSTREAM"] + "/v1", api_key="k", max_retries=0, http_client=llmguard.async_http_client()
)
MESSAGES: Any = [{"role": "user", "content": "hello"}]


def ask() -> str:
    """One call, by a thread."""
    return client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=200).choices[0].message.content or ""


def user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    """Who is signed in."""
    return x_user


async def traced(request: Any, call_next: Any) -> Any:
    """Middleware that others have."""
    return await call_next(request)


app = FastAPI(lifespan=lifespan)
app.add_middleware(BaseHTTPMiddleware, dispatch=traced)
add_exception_handlers(app)


@app.get("/sync", dependencies=[attribute(team="search", feature="sync", end_user=user)])
def sync_view() -> str:
    """A view that FastAPI runs in a thread."""
    return ask()


@app.get("/async", dependencies=[attribute(team="search", feature="async", end_user=user)])
async def async_view() -> str:
    """A view in the event loop."""
    reply = await async_client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=200)
    return reply.choices[0].message.content or ""


@app.get("/thread", dependencies=[attribute(team="search", feature="thread")])
async def thread_view() -> str:
    """A view that hands the call to a thread."""
    return await anyio.to_thread.run_sync(ask)


@app.get("/stream", dependencies=[attribute(team="search", feature="stream")])
def stream_view() -> StreamingResponse:
    """A reply whose call is made while it is sent."""

    def pieces() -> Iterator[str]:
        for chunk in client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=200, stream=True):
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/background", dependencies=[attribute(team="search", feature="background")])
def background_view(tasks: BackgroundTasks) -> str:
    """A call after the reply."""
    tasks.add_task(ask)
    return "later"


@app.get("/poor", dependencies=[attribute(team="poor", feature="little")])
async def poor_view() -> str:
    """A view whose own budget is gone, in the midst of a group of tasks."""
    return await async_view()


@app.get("/greedy", dependencies=[attribute(team="search", feature="greedy", end_user=user)])
def greedy_view() -> str:
    """A view whose user may not spend more."""
    return ask()


@app.get("/budget")
def budget_view(budgets: Annotated[list[Remaining], remaining(team="search", env="unattributed")]) -> list[list[Any]]:
    """How the budgets stand."""
    return [[at.rule, at.limit, at.spent, at.held, at.remaining] for at in budgets]
