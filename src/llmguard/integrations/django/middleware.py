"""Whose calls a request makes: `ContextMiddleware`, for synchronous and asynchronous projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from llmguard.guard import get_guard
from llmguard.integrations.django.settings import function, read_settings
from llmguard.integrations.httpx.refusals import refusal
from llmguard.integrations.problems import problem_of
from llmguard.integrations.requests import CONTEXT_HEADER, RequestContext
from llmguard.runtime.context import Scope

GetResponse = Callable[[HttpRequest], Any]
Said = Mapping[str, str | None]

_NOTHING: Final[Said] = {}


class ContextMiddleware:
    """Attributes the LLM calls of a request to whom `LLMGUARD["ATTRIBUTION"]` says, and makes them one tree.

    It stands last in `MIDDLEWARE`, after authentication. What a streaming response does while it is sent belongs to the
    request, too. A refusal that a view lets through is answered by `ON_REFUSAL`, or as problem+json.

    Raises ImproperlyConfigured or :class:`llmguard.errors.ConfigError` when the project starts with wrong settings.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        settings = read_settings()
        self._attribution = function("ATTRIBUTION", settings.attribution)
        self._on_refusal = function("ON_REFUSAL", settings.on_refusal)
        self._context = RequestContext(None, lambda said: said, {})
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)
        get_guard()  # a server with a wrong configuration does not start

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request."""
        return self._acall(request) if self._async else self._call(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for a view that was refused a call and did not catch it."""
        if self._on_refusal is not None and (said := refusal(exception)) is not None:
            own: HttpResponse | None = self._on_refusal(request, said)
            if own is not None:
                return own
        problem = problem_of(exception)
        return None if problem is None else HttpResponse(problem.body, status=problem.status, headers=problem.headers)

    def _call(self, request: HttpRequest) -> HttpResponseBase:
        asked = self._attribution
        if iscoroutinefunction(asked):
            asked = async_to_sync(asked)
        with (scope := self._scope(request, asked(request) if asked else _NOTHING)):
            response: HttpResponseBase = self.get_response(request)
        return _streaming(response, scope)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        asked = self._attribution
        if asked is not None and not iscoroutinefunction(asked):
            asked = sync_to_async(asked)  # it may look into the database
        with (scope := self._scope(request, await asked(request) if asked else _NOTHING)):
            response: HttpResponseBase = await self.get_response(request)
        return _streaming(response, scope)

    def _scope(self, request: HttpRequest, said: Said) -> Scope:
        """The scope of a request. Raises ImproperlyConfigured for an attribution that is none."""
        try:
            return self._context.enter(dict(said), request.headers.get(CONTEXT_HEADER))
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(
                f"LLMGUARD['ATTRIBUTION'] returned {said!r}; return a dict with some of team, env, feature, end_user, "
                f"each 1 to 128 printable characters ({error})."
            ) from error


def _streaming(response: HttpResponseBase, scope: Scope) -> HttpResponseBase:
    """The response, whose chunks are made in the scope, one by one. Files are left to the server."""
    if not response.streaming or getattr(response, "file_to_stream", None) is not None:
        return response
    content = response.streaming_content
    response.streaming_content = scope(_each_async)(content) if response.is_async else scope(_each)(content)
    return response


def _each(content: Any) -> Iterator[Any]:
    yield from content


async def _each_async(content: Any) -> AsyncIterator[Any]:
    try:
        async for chunk in content:
            yield chunk
    finally:
        await content.aclose()
