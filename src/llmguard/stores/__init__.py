"""Quota stores: the projection of the ledger that decides whether a call may go out.

A store is chosen by the scheme of its URL: ``memory://``, ``redis://``, ``rediss://``, ``unix://`` (a socket),
``redis+cluster://`` or ``rediss+cluster://``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmguard.errors import ConfigError, Problem
from llmguard.stores.memory import MemoryStore

if TYPE_CHECKING:
    from llmguard.stores.redis import AsyncRedisStore, RedisStore

__all__ = ["open_blocking_store", "open_store"]

SCHEMES = ("memory", "redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


def open_store(url: str, namespace: str = "default") -> MemoryStore | AsyncRedisStore:
    """The store that ``url`` names, for asyncio. Connects when first used. Raises ConfigError."""
    if _is_memory(url):
        return MemoryStore()
    try:
        from llmguard.stores.redis import AsyncRedisStore  # noqa: PLC0415  an extra
    except ImportError as error:
        raise _extra_missing() from error
    return AsyncRedisStore(url, namespace)


def open_blocking_store(url: str, namespace: str = "default") -> MemoryStore | RedisStore:
    """The same for threads and worker processes."""
    if _is_memory(url):
        return MemoryStore()
    try:
        from llmguard.stores.redis import RedisStore  # noqa: PLC0415  an extra
    except ImportError as error:
        raise _extra_missing() from error
    return RedisStore(url, namespace)


def _is_memory(url: str) -> bool:
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        fix = f"use one of {', '.join(name + '://' for name in SCHEMES)}"
        raise ConfigError([Problem("store", f"there is no store for {scheme or url}://", fix)])
    return scheme == "memory"


def _extra_missing() -> ConfigError:
    fix = "pip install 'llmguard-gateway[redis]', or use store: memory://"
    return ConfigError([Problem("store", "a Redis store needs the redis extra", fix)])
