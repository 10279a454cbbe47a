"""Guarded clients to give to an SDK: `openai.OpenAI(http_client=llmguard.http_client(team="search"))`."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache, partial
from typing import Any
from urllib.request import getproxies

from llmguard.guard import Guard, get_guard
from llmguard.integrations.httpx.door import Door, Words, check_guard, door_of
from llmguard.integrations.httpx.libraries import Library, Name, library
from llmguard.runtime.context import checked


class _Client:
    """What a guarded client has beside its library's own class, which is ``plain``."""

    library: Library
    plain: Any
    guard: Guard | None
    words: Words

    @property
    def door(self) -> Door:
        """That of the client's guard, else of the default one."""
        return door_of(self.guard or get_guard())


class _BlockingClient(_Client):
    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """As the library's own, by way of the guard."""
        return send(self.library, self.door, partial(self.plain.send, self), request, self.words, stream, options)


class _AwaitedClient(_Client):
    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """As the library's own, by way of the guard."""
        plain = partial(self.plain.send, self)
        return await asend(self.library, self.door, plain, request, self.words, stream, options)


def send(
    library: Library,
    door: Door,
    plain: Callable[..., Any],
    request: Any,
    words: Words,
    stream: bool,
    options: dict[str, Any],
) -> Any:
    """Send with a client's own ``plain`` method, through the door where the request has to."""
    places = door.places_of(request)
    if not places:
        return plain(request, stream=stream, **options)
    response = door.send(library, places, partial(plain, stream=True, **options), request, words)
    if not stream:
        try:
            response.read()
        except BaseException:
            response.close()
            raise
    return response


async def asend(
    library: Library,
    door: Door,
    plain: Callable[..., Any],
    request: Any,
    words: Words,
    stream: bool,
    options: dict[str, Any],
) -> Any:
    """The asynchronous twin of :func:`send`."""
    places = door.places_of(request)
    if not places:
        return await plain(request, stream=stream, **options)
    response = await door.asend(library, places, partial(plain, stream=True, **options), request, words)
    if not stream:
        try:
            await response.aread()
        except BaseException:
            await response.aclose()
            raise
    return response


def http_client(
    *,
    team: str | None = None,
    env: str | None = None,
    feature: str | None = None,
    end_user: str | None = None,
    guard: Guard | None = None,
    module: Name = "httpx2",
    wrap: Any = None,
    **options: Any,
) -> Any:
    """A client of `httpx2` or `httpx` whose calls to providers are guarded; all others pass as they are.

    The names are charged where the calling context (:func:`llmguard.context`) does not say otherwise. ``guard`` is the
    default one unless given. ``wrap`` is a transport to send with; without it the client makes one that is set up as
    the SDKs set up theirs. ``options`` are the client's own; leave ``timeout`` out, and the SDK keeps its own.
    Raises ModuleNotFoundError where the library is not installed, ValueError for what is no name or library, and
    :class:`llmguard.errors.ConfigError` for what is no guard.
    """
    words = {"team": team, "env": env, "feature": feature, "end_user": end_user}
    return _made(library(module), words, guard, wrap, options, awaited=False)


def async_http_client(
    *,
    team: str | None = None,
    env: str | None = None,
    feature: str | None = None,
    end_user: str | None = None,
    guard: Guard | None = None,
    module: Name = "httpx2",
    wrap: Any = None,
    **options: Any,
) -> Any:
    """The asynchronous twin of :func:`http_client`."""
    words = {"team": team, "env": env, "feature": feature, "end_user": end_user}
    return _made(library(module), words, guard, wrap, options, awaited=True)


def _made(
    library: Library,
    words: dict[str, str | None],
    guard: Guard | None,
    wrap: Any,
    options: dict[str, Any],
    *,
    awaited: bool,
) -> Any:
    said = checked(words)
    check_guard(guard)
    client = _kinds(library)[awaited](**_defaults(library, wrap, options, awaited=awaited))
    client.guard = guard
    client.words = said
    return client


@cache
def _kinds(library: Library) -> tuple[type[Any], type[Any]]:
    client, awaited = library.module.Client, library.module.AsyncClient
    return (
        type("GuardedClient", (_BlockingClient, client), {"library": library, "plain": client}),
        type("GuardedAsyncClient", (_AwaitedClient, awaited), {"library": library, "plain": awaited}),
    )


def _defaults(library: Library, wrap: Any, options: dict[str, Any], *, awaited: bool) -> dict[str, Any]:
    """What the OpenAI and Anthropic SDKs give to a client that they make themselves (openai 3.57, anthropic 2.13,
    `_constants.py` and `_base_client.py`), save the timeout: they take one that is not set for theirs."""
    module = library.module
    given = {"limits": module.Limits(max_connections=1000, max_keepalive_connections=100), "follow_redirects": True}
    given |= options
    if wrap is not None:
        given["transport"] = wrap
    elif not given.keys() & {"transport", "mounts", "proxy"} and not getproxies().keys() & {"http", "https", "all"}:
        kind = module.AsyncHTTPTransport if awaited else module.HTTPTransport
        wanted = ("limits", "verify", "cert", "trust_env", "http1", "http2")
        own = {name: given[name] for name in wanted if name in given}
        given["transport"] = kind(**own, socket_options=_KEEP_ALIVE)
    return given


_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5),
]
"""Probes of a silent connection, so that nothing between here and the provider forgets it while a model thinks. With a
proxy in the environment the client makes its own transports, which have none."""
