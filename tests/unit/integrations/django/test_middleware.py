"""Whose calls a request makes, in views of both kinds, in their streams, and in nobody else's requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory

from llmguard.core.call import Caller
from llmguard.integrations.django import ContextMiddleware
from llmguard.integrations.httpx.refusals import Refusal
from llmguard.runtime.context import current

Setting = Callable[..., None]
WHO = "tests.unit.integrations.django.test_middleware"


def who(request: HttpRequest) -> dict[str, str]:
    return {"team": request.headers["x-team"]}


async def awho(request: HttpRequest) -> dict[str, str]:
    await asyncio.sleep(0)
    return {"team": request.headers["x-team"]}


def nonsense(request: HttpRequest) -> dict[str, str]:
    return {"taem": "red"}


def in_own_words(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    return HttpResponse(f"{request.path}: {refusal.code}", status=402)


def asked(team: str = "red") -> HttpRequest:
    request: HttpRequest = RequestFactory().get("/ask", headers={"x-team": team})
    return request


@pytest.mark.parametrize("attribution", ["who", "awho"])
def test_a_view_s_calls_are_whom_the_request_is_from(llmguard_setting: Setting, attribution: str) -> None:
    llmguard_setting(ATTRIBUTION=f"{WHO}.{attribution}")
    seen: list[Caller] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(current())
        return HttpResponse()

    middleware = ContextMiddleware(view)
    middleware(asked("red"))
    middleware(asked("blue"))
    assert [caller.team for caller in seen] == ["red", "blue"]
    assert None not in {caller.tree_id for caller in seen}
    assert len({caller.tree_id for caller in seen}) == 2
    assert current() == Caller()


@pytest.mark.parametrize("attribution", ["who", "awho"])
def test_asynchronous_views_and_what_they_run_in_threads(llmguard_setting: Setting, attribution: str) -> None:
    llmguard_setting(ATTRIBUTION=f"{WHO}.{attribution}")
    seen: dict[str, list[str | None]] = {}

    async def view(request: HttpRequest) -> HttpResponse:
        here = seen.setdefault(request.headers["x-team"], [])
        here.append(current().team)
        await asyncio.sleep(0.01)
        here.append(await sync_to_async(lambda: current().team)())
        here.append(await asyncio.to_thread(lambda: current().team))
        return HttpResponse()

    async def both() -> None:
        middleware = ContextMiddleware(view)
        await asyncio.gather(middleware(asked("red")), middleware(asked("blue")))
        assert current() == Caller()

    asyncio.run(both())
    assert seen == {"red": ["red"] * 3, "blue": ["blue"] * 3}


def test_chunks_are_made_in_the_context_and_nothing_else_is(llmguard_setting: Setting) -> None:
    llmguard_setting(ATTRIBUTION=f"{WHO}.who")
    ended: list[str | None] = []

    def chunks() -> Iterator[str]:
        try:
            for _ in range(3):
                yield str(current().team)
        finally:
            ended.append(current().team)

    response: Any = ContextMiddleware(lambda request: StreamingHttpResponse(chunks()))(asked())
    got = []
    for chunk in response:
        got.append(chunk)
        assert current() == Caller()
    response.close()
    assert (got, ended) == ([b"red"] * 3, ["red"])


def test_asynchronous_chunks(llmguard_setting: Setting) -> None:
    llmguard_setting(ATTRIBUTION=f"{WHO}.who")
    ended: list[str | None] = []

    async def chunks() -> AsyncIterator[str]:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                yield str(current().team)
        finally:
            ended.append(current().team)

    async def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(chunks())

    async def read(most: int) -> list[bytes]:
        response: Any = await ContextMiddleware(view)(asked())  # type: ignore[misc]
        got: list[bytes] = []
        stream = aiter(response)
        async for chunk in stream:
            got.append(chunk)
            assert current() == Caller()
            if len(got) == most:
                break
        await stream.aclose()
        return got

    assert asyncio.run(read(9)) == [b"red"] * 3
    assert asyncio.run(read(1)) == [b"red"]
    assert ended[0] == "red"


def test_a_file_stays_one_that_the_server_may_send_itself(llmguard_setting: Setting) -> None:
    llmguard_setting()
    with open(__file__, "rb") as file:
        response: Any = ContextMiddleware(lambda request: FileResponse(file))(asked())
        assert response.file_to_stream is file


def test_a_thread_that_serves_many_requests_keeps_nothing(llmguard_setting: Setting) -> None:
    llmguard_setting(ATTRIBUTION=f"{WHO}.who")

    def fail(request: HttpRequest) -> HttpResponse:
        raise KeyError(current().team)

    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(ContextMiddleware(fail), asked()).exception()
        assert (type(error), str(error)) == (KeyError, "'red'")
        assert pool.submit(current).result() == Caller()


def test_an_attribution_that_is_none(llmguard_setting: Setting) -> None:
    llmguard_setting(ATTRIBUTION=f"{WHO}.nonsense")
    with pytest.raises(ImproperlyConfigured, match=r"returned \{'taem': 'red'\}; return a dict with some of team, env"):
        ContextMiddleware(lambda request: HttpResponse())(asked())


class Told(Exception):
    """What an SDK raises."""

    def __init__(self, scope: dict[str, str]) -> None:
        super().__init__()
        details = {"scope": scope, "rule": "r", "limit": "5", "spent": "5"}
        self.body = {"error": {"message": "spent", "code": "budget_exceeded", "llmguard": details}}
        self.response = type("Response", (), {"status_code": 429, "headers": {"retry-after": "30"}})()


@pytest.mark.parametrize(("scope", "status"), [({"team": "red"}, 503), ({"end_user": "u1"}, 429)])
def test_a_refusal_that_a_view_lets_through(llmguard_setting: Setting, scope: dict[str, str], status: int) -> None:
    llmguard_setting()
    middleware = ContextMiddleware(lambda request: HttpResponse())
    answer = middleware.process_exception(asked(), Told(scope))
    assert answer is not None
    assert (answer.status_code, answer["content-type"]) == (status, "application/problem+json")
    assert answer["retry-after"] == "30"
    assert json.loads(answer.content)["code"] == "budget_exceeded"
    assert middleware.process_exception(asked(), KeyError()) is None


def test_a_refusal_in_the_project_s_own_words(llmguard_setting: Setting) -> None:
    llmguard_setting(ON_REFUSAL=f"{WHO}.in_own_words")
    answer = ContextMiddleware(lambda request: HttpResponse()).process_exception(asked(), Told({"team": "red"}))
    assert answer is not None
    assert (answer.status_code, answer.content) == (402, b"/ask: budget_exceeded")
