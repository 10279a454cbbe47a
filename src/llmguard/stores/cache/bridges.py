"""Blocking back ends as coroutines see them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llmguard.stores.cache.memory import MemoryCache
from llmguard.stores.cache.ports import Backend, Look


class Immediate:
    """The cache in memory, which nobody has to wait for."""

    def __init__(self, cache: MemoryCache) -> None:
        self._cache = cache

    async def look(self, names: Sequence[str], owner: str | None) -> Look:
        """See :meth:`Backend.look`."""
        return self._cache.look(names, owner)

    async def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """See :meth:`Backend.put`."""
        return self._cache.put(name, blob, ttl_ms, owner)

    async def give_up(self, name: str, owner: str) -> None:
        """See :meth:`Backend.give_up`."""
        self._cache.give_up(name, owner)

    async def aclose(self) -> None:
        """The cache stays with its guard."""


class Threaded:
    """A back end that waits, asked in threads: for coroutines of any loop that share one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def look(self, names: Sequence[str], owner: str | None) -> Look:
        """See :meth:`Backend.look`."""
        return await asyncio.to_thread(self._backend.look, names, owner)

    async def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """See :meth:`Backend.put`."""
        return await asyncio.to_thread(self._backend.put, name, blob, ttl_ms, owner)

    async def give_up(self, name: str, owner: str) -> None:
        """See :meth:`Backend.give_up`."""
        await asyncio.to_thread(self._backend.give_up, name, owner)

    async def aclose(self) -> None:
        """Whoever made the back end closes it."""
