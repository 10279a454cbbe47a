"""The gateway as Django views: one for threads and one for event loops, on the relays of the WSGI and ASGI gateways.

One asynchronous view for both would cost Django a loop per request under WSGI, and fail under gevent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from django.contrib.auth.decorators import login_not_required
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, URLPattern
from django.urls.resolvers import RegexPattern
from django.views.decorators.csrf import csrf_exempt

from llmguard.forward.blocking.engine import CallerGone
from llmguard.forward.engine import Headers
from llmguard.forward.relay import Reply, refused
from llmguard.guard import Guard, get_guard
from llmguard.integrations.wsgi.app import Body, WsgiApplication, native
from llmguard.integrations.wsgi.environ import BodyMissing
from llmguard.providers.routes import Op
from llmguard.proxy.front import Front, probes
from llmguard.proxy.mounts import path_below
from llmguard.runtime.ids import uuid7
from llmguard.runtime.service import Service

View = Callable[..., Any]

_GONE: Final = 499
_READY: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


def blocking_view(request: HttpRequest, path: str) -> HttpResponseBase:
    """Serve a request that a WSGI server has taken; ``path`` is what follows the gateway's prefix."""
    kept, guard = get_guard().kept, get_guard()
    application = kept.setdefault(WsgiApplication, WsgiApplication(guard))
    assert isinstance(application, WsgiApplication)
    environ = dict(request.environ)
    environ["SCRIPT_NAME"] = _prefix(request, path).encode().decode("latin-1")
    environ["PATH_INFO"] = f"/{path}".encode().decode("latin-1")
    if environ.get("CONTENT_LENGTH"):
        environ["wsgi.input"] = request  # somebody may have read it
    try:
        reply = application.answer(environ)
    except (CallerGone, BodyMissing, UnreadablePostError):
        return HttpResponse(status=_GONE)
    if reply.body is not None:
        return _whole(reply.status, reply.headers, reply.body)
    assert reply.chunks is not None
    return _streaming(reply.status, reply.headers, Body(reply.chunks, reply.release))


async def async_view(request: HttpRequest, path: str) -> HttpResponseBase:
    """Serve a request that an ASGI server has taken. Django cancels it when the caller hangs up."""
    guard = get_guard()
    service = guard.running() or await guard.late_service()
    gateway = service.kept.get(AsyncGateway)
    if gateway is None:
        gateway = service.kept[AsyncGateway] = AsyncGateway(guard, service)
    assert isinstance(gateway, AsyncGateway)
    raw = path_below({**request.scope, "root_path": _prefix(request, path)})
    reply = await gateway.answer(request, raw)
    if reply.body is not None:
        return _whole(reply.status, reply.headers, reply.body)
    assert reply.chunks is not None
    return _streaming(reply.status, reply.headers, AsyncBody(reply.chunks, reply.release))


class AsyncGateway:
    """The gateway of one event loop, for requests that Django has taken apart."""

    def __init__(self, guard: Guard, service: Service) -> None:
        self._relay = guard.relay(service)
        self._front = Front(guard, probes(service.not_ready))

    async def answer(self, request: HttpRequest, path: bytes) -> Reply:
        """Answer a request for the undecoded ``path`` below the gateway's prefix."""
        method, event_id = request.method or "GET", uuid7()
        front, query = self._front, request.scope["query_string"]
        head = front.read(method, path, query, list(request.scope["headers"]), event_id)
        if isinstance(head, Reply):
            return head
        call = front.call(head, request.read(front.limits.body + 1), event_id)
        if isinstance(call, Reply):
            return call
        if head.route.op is Op.MODELS:
            refusal = await self._relay.verify(call, head.dialect, head.secret, event_id)
            return front.models(head, event_id) if refusal is None else refused(head.dialect, refusal, event_id)
        return await self._relay(call, head.dialect, head.secret, event_id)


class AsyncBody:
    """The chunks of a reply. However Django ends with it, the call is closed and recorded."""

    def __init__(self, chunks: AsyncGenerator[bytes], release: Callable[[], None]) -> None:
        self._chunks = chunks
        self._release = release
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """The response is over; Django says so in a thread of its own."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._release)


class GatewayPattern(URLPattern):
    """Every path below a prefix; an event loop that runs here says that the asynchronous view is wanted."""

    def __init__(self) -> None:
        super().__init__(
            RegexPattern(r"^(?P<path>.*)$", is_endpoint=True), _for_anybody(blocking_view), name="llmguard"
        )
        self._async_view = _for_anybody(async_view)

    def resolve(self, path: str) -> ResolverMatch | None:
        """See URLPattern."""
        match = super().resolve(path)
        if match is not None and asyncio._get_running_loop() is not None:
            match.func = self._async_view
        return match


def _for_anybody(view: View) -> View:
    """Callers have keys instead of sessions and CSRF tokens, and no transaction may stay open as long as a stream."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    exempt: View = login_not_required(csrf_exempt(view))
    return exempt


def _prefix(request: HttpRequest, path: str) -> str:
    """Where the gateway stands, without a slash at the end."""
    whole: str = request.path
    return whole[: len(whole) - len(path)].removesuffix("/")


def _whole(status: int, headers: Headers, body: bytes) -> HttpResponseBase:
    return _with_headers(HttpResponse(body, status=status), headers)


def _streaming(status: int, headers: Headers, chunks: object) -> HttpResponseBase:
    response = _with_headers(StreamingHttpResponse(chunks, status=status), headers)
    response.setdefault("Content-Encoding", "identity")  # else GZipMiddleware holds the stream back
    return response


def _with_headers(response: HttpResponseBase, headers: Headers) -> HttpResponseBase:
    del response["Content-Type"]  # Django's own
    for name, value in native(headers):
        response[name] = value
    return response
