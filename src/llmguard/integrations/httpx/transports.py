"""Guarded transports, for clients that are built by hand: `httpx2.Client(transport=transport(httpx2.HTTPTransport()))`.

Every hop of a redirect goes through a transport by itself; those that only say where to go cost nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llmguard.guard import Guard, get_guard
from llmguard.integrations.httpx.door import Words, check_guard, door_of
from llmguard.integrations.httpx.libraries import NAMES, Library, library
from llmguard.runtime.context import checked


class _Transport:
    """Sends with ``inner``."""

    library: Library

    def __init__(self, inner: Any, guard: Guard | None, words: Words) -> None:
        self._inner = inner
        self._guard = guard
        self._words = words


class _BlockingTransport(_Transport):
    def handle_request(self, request: Any) -> Any:
        """As the inner transport, by way of the guard."""
        door = door_of(self._guard or get_guard())
        places = door.places_of(request)
        if not places:
            return self._inner.handle_request(request)
        return door.send(self.library, places, self._inner.handle_request, request, self._words)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class _AwaitedTransport(_Transport):
    async def handle_async_request(self, request: Any) -> Any:
        """As the inner transport, by way of the guard."""
        door = door_of(self._guard or get_guard())
        places = door.places_of(request)
        if not places:
            return await self._inner.handle_async_request(request)
        return await door.asend(self.library, places, self._inner.handle_async_request, request, self._words)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def transport(inner: Any, *, guard: Guard | None = None, **words: str) -> Any:
    """A transport of the same library that guards what it sends with ``inner``.

    ``words`` are `team`, `env`, `feature` and `end_user`, as in :func:`llmguard.http_client`.
    """
    check_guard(guard)
    return _kinds(_library_of(inner))[0](inner, guard, checked(words))


def async_transport(inner: Any, *, guard: Guard | None = None, **words: str) -> Any:
    """The asynchronous twin of :func:`transport`."""
    check_guard(guard)
    return _kinds(_library_of(inner))[1](inner, guard, checked(words))


@cache
def _kinds(library: Library) -> tuple[type[Any], type[Any]]:
    module, own = library.module, {"library": library}
    return (
        type("GuardedTransport", (_BlockingTransport, module.BaseTransport), own),
        type("GuardedAsyncTransport", (_AwaitedTransport, module.AsyncBaseTransport), own),
    )


def _library_of(inner: Any) -> Library:
    for name in NAMES:
        if any(base.__module__.partition(".")[0] == name for base in type(inner).__mro__):
            return library(name)
    raise TypeError(f"{type(inner).__name__} is no transport of httpx2 or httpx")
