"""FastAPI: attribution and budgets as dependencies, a lifespan, and refusals as answers.

::

    app = FastAPI(lifespan=lifespan)
    add_exception_handlers(app)

    @app.post("/ask", dependencies=[attribute(team="search", feature="ask", end_user=current_user)])
    def ask(question: str) -> str: ...

    @app.get("/budget")
    def budget(budgets: Annotated[list[Remaining], remaining(team="search")]) -> list[str]: ...
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from inspect import Parameter, Signature
from typing import Any

from fastapi import Depends, FastAPI

from llmguard.guard import Guard, get_guard
from llmguard.integrations.problems import problem_of
from llmguard.runtime.context import context
from llmguard.runtime.lifespan import ASGI, Message, Receive, Send
from llmguard.runtime.remaining import Remaining

__all__ = ["Remaining", "add_exception_handlers", "attribute", "lifespan", "remaining"]

Value = str | Callable[..., Any]
"""A fixed name, or a dependency whose value it is."""


@asynccontextmanager
async def lifespan(app: FastAPI, guard: Guard | None = None) -> AsyncIterator[None]:
    """The life of the default guard as an application's: ``FastAPI(lifespan=lifespan)``, or inside one of your own
    ``async with lifespan(app, guard):``. At the end it waits some seconds for open calls and records everything."""
    chosen = guard or get_guard()
    await chosen.service()
    try:
        yield
    finally:
        await chosen.aclose()


def attribute(
    *, team: Value | None = None, env: Value | None = None, feature: Value | None = None, end_user: Value | None = None
) -> Any:
    """A dependency that attributes the LLM calls of an endpoint, sync or async, with its streams, background tasks and
    threads of the framework. A value may itself be a dependency: ``end_user=current_user``."""
    given = {"team": team, "env": env, "feature": feature, "end_user": end_user}
    values = {name: value for name, value in given.items() if value is not None}
    context(**_fixed(values))  # raises ValueError for a bad name, here and not with the first request

    # Only an asynchronous generator runs where the endpoint does; a synchronous one would set the context of a thread.
    async def attributed(**found: str | None) -> AsyncGenerator[None]:
        names: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        with context(**_fixed(values), **names):
            yield

    return Depends(_dependency(attributed, values))


def remaining(*, guard: Guard | None = None, **scope: Value) -> Any:
    """A dependency with the budgets that count for callers of ``scope``, such as ``team="search"``, as a list of
    :class:`llmguard.runtime.remaining.Remaining`. A value may itself be a dependency."""

    async def budgets(**found: str) -> list[Remaining]:
        return await (guard or get_guard()).aremaining(**_fixed(scope), **found)

    return Depends(_dependency(budgets, scope))


def add_exception_handlers(app: FastAPI) -> None:
    """Answer requests whose code met a refusal and did not handle it: problem+json with Retry-After, 503 where the
    application's own budget is gone, 429 where it is that of the end user whom the call was attributed to.

    Knows refusals in the exceptions of all SDKs without importing any. Whatever the application handles itself stays
    its own; call this before middleware is added that should see these answers, such as CORS.
    """
    app.add_middleware(_Refusals)


class _Refusals:
    """Turns exceptions into answers for as long as nothing was sent."""

    def __init__(self, app: ASGI) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except Exception as error:
            problem = None if started or scope["type"] != "http" else problem_of(error)
            if problem is None:
                raise
            headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
            await send({"type": "http.response.start", "status": problem.status, "headers": headers})
            await send({"type": "http.response.body", "body": problem.body})


def _fixed(values: dict[str, Value]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _dependency(function: Callable[..., Any], values: dict[str, Value]) -> Callable[..., Any]:
    """``function`` with a parameter for each value that is a dependency, as FastAPI reads them."""
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=Depends(value))
        for name, value in values.items()
        if not isinstance(value, str)
    ]
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return function
