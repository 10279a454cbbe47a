"""Where kept replies live: sealed, bounded in size and time, and never needed — a cache that is away is a miss.

A back end keeps opaque blobs by name. :class:`~llmguard.stores.cache.vault.Vault` names and seals them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmguard.stores.cache.memory import MemoryCache
from llmguard.stores.cache.ports import AsyncBackend, Backend, Look
from llmguard.stores.cache.vault import Vault

if TYPE_CHECKING:
    from llmguard.stores.cache.redis import AsyncRedisCache, RedisCache

__all__ = ["AsyncBackend", "Backend", "Look", "MemoryCache", "Vault", "open_blocking_cache", "open_cache"]


def open_cache(url: str, max_bytes: int, namespace: str = "default") -> MemoryCache | AsyncRedisCache:
    """The back end that ``url`` names, for asyncio. Connects when first used; ``max_bytes`` bounds all entries."""
    if urlsplit(url).scheme == "memory":
        return MemoryCache(max_bytes)
    from llmguard.stores.cache.redis import AsyncRedisCache  # noqa: PLC0415  an extra

    return AsyncRedisCache(url, max_bytes, namespace)


def open_blocking_cache(url: str, max_bytes: int, namespace: str = "default") -> MemoryCache | RedisCache:
    """The same for threads and worker processes."""
    if urlsplit(url).scheme == "memory":
        return MemoryCache(max_bytes)
    from llmguard.stores.cache.redis import RedisCache  # noqa: PLC0415  an extra

    return RedisCache(url, max_bytes, namespace)
