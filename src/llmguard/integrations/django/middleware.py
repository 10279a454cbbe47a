"""Whose calls a request makes: `ContextMiddleware`, for synchronous and asynchronous projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from llmguard.core.call import Caller
from llmguard.guard import get_guard
from llmguard.integrations.django.refusals import answer
from llmguard.integrations.django.settings import function, read_settings
from llmguard.integrations.httpx.refusals import refusal
from llmguard.runtime.context import Scope, carrying, context
from llmguard.runtime.ids import uuid7

GetResponse = Callable[[HttpRequest], Any]


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
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)
        get_guard()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request."""
        return self._acall(request) if self._async else self._call(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for a view that was refused a call and did not catch it."""
        said = refusal(exception)
        if said is None:
            return None
        own = None if self._on_refusal is None else self._on_refusal(request, said)
        return answer(said) if own is None else own

    def _call(self, request: HttpRequest) -> HttpResponseBase:
        said = None
        if self._attribution is not None:
            asked = self._attribution
            said = async_to_sync(asked)(request) if iscoroutinefunction(asked) else asked(request)
        with (scope := _scope(said)):
            response: HttpResponseBase = self.get_response(request)
        return _streaming(response, scope)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        said = None
        if self._attribution is not None:
            asked = self._attribution
            asked = asked if iscoroutinefunction(asked) else sync_to_async(asked)  # it may look into the database
            said = await asked(request)
        with (scope := _scope(said)):
            response: HttpResponseBase = await self.get_response(request)
        return _streaming(response, scope)


def _scope(said: Mapping[str, Any] | None) -> Scope:
    """The scope of a request with a tree of its own. Raises ImproperlyConfigured for an attribution that is none."""
    try:
        names = context(**(said or {}))
        with carrying(Caller(tree_id=uuid7())), names as caller:
            return carrying(caller)
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
