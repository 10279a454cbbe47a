"""The cache in Redis or Valkey, blocking and for asyncio.

The server may be the quota store's: all entries together stay within a bound of their own, so that they never crowd
out budgets. A server that did not answer is left alone for a second, so that calls do not wait for it one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from llmguard.stores.cache.ports import CLAIM_MS, CacheAway, Look, Stats
from llmguard.stores.redis import server
from llmguard.stores.redis.script import Command, packed, prefix
from llmguard.stores.redis.wire import Wire

_LUA = files(__package__) / "lua"
_SCRIPTS = ("look.lua", "put.lua", "give_up.lua", "purge.lua")
_LOOK, _PUT, _PURGE, _GIVE_UP = (
    (_LUA / f"{name}.lua").read_text("utf-8") for name in ("look", "put", "purge", "give_up")
)
_REST_S = 1.0
_AT_ONCE = 500
_DIGESTS = {text: sha1(text.encode(), usedforsecurity=False).hexdigest() for text in (_LOOK, _PUT, _GIVE_UP, _PURGE)}
"""By which the server knows a script that it has."""


class _Keys:
    """The keyspace of one namespace's cache, and the arguments of the scripts that work in it."""

    def __init__(self, url: str, max_bytes: int, namespace: str) -> None:
        self.url = url
        self._max_bytes = max_bytes
        base = prefix(namespace)
        self.entries = base + "c:"
        self.claims = base + "cc:"
        self.index = base + "cache-index"
        self.sizes = base + "cache-sizes"
        self._rests_until = 0.0

    def look(self, names: Sequence[str], owner: str | None) -> tuple[list[str], list[str | int]]:
        entries = [self.entries + name for name in names]
        return [self.index, self.claims + names[0], *entries], [owner or "", CLAIM_MS, *names]

    def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> tuple[list[str], list[str | int | bytes]]:
        keys = [self.index, self.sizes, self.claims + name, self.entries + name]
        return keys, [name, blob, ttl_ms, owner or "", self._max_bytes, self.entries]

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn what a client library raises inside into CacheAway, and rest after it."""
        if time.monotonic() < self._rests_until:
            raise CacheAway(f"cache {server.name(self.url)} did not answer a moment ago")
        try:
            yield
        except server.FAILURES as error:
            if not isinstance(error, ResponseError):  # a full server answers
                self._rests_until = time.monotonic() + _REST_S
            raise CacheAway(f"cache {server.name(self.url)}: {str(error) or type(error).__name__}") from error


def _found(reply: list[Any]) -> Look:
    place = int(reply[0])
    return Look(reply[1], place - 1) if place > 0 else Look(None, claimed=place == 0)


class RedisCache:
    """For any number of threads. ``max_bytes`` bounds all entries of the namespace together."""

    def __init__(self, url: str, max_bytes: int, namespace: str = "default") -> None:
        self._keys = _Keys(url, max_bytes, namespace)

    @cached_property
    def _client(self) -> Any:
        options = server.patience(server.TIMEOUT_S)
        if server.is_cluster(self._keys.url):
            return RedisCluster.from_url(server.plain(self._keys.url), **options)
        return Redis.from_url(self._keys.url, **options)

    def look(self, names: Sequence[str], owner: str | None) -> Look:
        """Find the first of ``names``, or claim it."""
        keys, arguments = self._keys.look(names, owner)
        return _found(self._run(_LOOK, keys, arguments))

    def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """Keep a blob and end the claim on its name."""
        keys, arguments = self._keys.put(name, blob, ttl_ms, owner)
        return bool(self._run(_PUT, keys, arguments))

    def give_up(self, name: str, owner: str) -> None:
        """End a claim without an entry."""
        self._run(_GIVE_UP, [self._keys.claims + name], [owner])

    def purge(self, tenant: str | None = None) -> int:
        """Drop all entries, or those of one tenant."""
        keys, dropped = self._keys, 0
        with keys.answering():
            match = None if tenant is None else f"{tenant}/*"
            names = [member for member, _ in self._client.zscan_iter(keys.index, match=match, count=1_000)]
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            dropped += int(self._run(_PURGE, [keys.index, keys.sizes], [keys.entries, *some]))
        return dropped

    def stats(self) -> Stats:
        """What is there, entries that have run out included until they are crowded out."""
        with self._keys.answering():
            size = self._client.hget(self._keys.sizes, "")
            return Stats(int(self._client.zcard(self._keys.index)), int(size or 0))

    def close(self) -> None:
        """Drop all connections."""
        if "_client" in self.__dict__:
            self._client.close()

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:
        with self._keys.answering():
            return self._client.register_script(script)(keys, arguments)


class AsyncRedisCache:
    """For one event loop."""

    def __init__(self, url: str, max_bytes: int, namespace: str = "default") -> None:
        self._keys = _Keys(url, max_bytes, namespace)
        self._wire = None if server.is_cluster(url) else Wire(url)

    @cached_property
    def _cluster(self) -> Any:
        return AsyncRedisCluster.from_url(server.plain(self._keys.url), **server.patience(server.TIMEOUT_S))

    async def look(self, names: Sequence[str], owner: str | None) -> Look:
        """Find the first of ``names``, or claim it."""
        keys, arguments = self._keys.look(names, owner)
        return _found(await self._run(_LOOK, keys, arguments))

    async def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """Keep a blob and end the claim on its name."""
        keys, arguments = self._keys.put(name, blob, ttl_ms, owner)
        return bool(await self._run(_PUT, keys, arguments))

    async def give_up(self, name: str, owner: str) -> None:
        """End a claim without an entry."""
        await self._run(_GIVE_UP, [self._keys.claims + name], [owner])

    async def aclose(self) -> None:
        """Drop all connections."""
        if self._wire is not None:
            self._wire.drop()
            await asyncio.sleep(0)  # the loop closes the socket in its next turn
        if "_cluster" in self.__dict__:
            await self._cluster.aclose()

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:
        with self._keys.answering():
            if self._wire is None:
                return await self._cluster.register_script(script)(keys, arguments)
            return await self._exchange(self._wire, script, (len(keys), *keys, *arguments))

    async def _exchange(self, wire: Wire, script: str, arguments: Command) -> Any:
        try:
            async with asyncio.timeout(server.TIMEOUT_S):
                try:
                    return await wire.exchange(packed(("EVALSHA", _DIGESTS[script], *arguments)))
                except ResponseError as error:
                    if not str(error).startswith("NOSCRIPT"):
                        raise
                    return await wire.exchange(packed(("EVAL", script, *arguments)))
        except TimeoutError:
            wire.drop()
            raise
