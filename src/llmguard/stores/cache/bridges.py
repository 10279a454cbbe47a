"""The cache in memory as coroutines see it."""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.stores.cache.memory import MemoryCache
from llmguard.stores.cache.ports import Look


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
