"""The quota store on Redis or Valkey for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

from llmguard.core.moves import Answer, Begin, Done, Known, Move, Open, Truth, Turn
from llmguard.stores.pieces import PIECE, pieces
from llmguard.stores.redis import server
from llmguard.stores.redis.codec import Batch
from llmguard.stores.redis.script import INSTALL, MISSING, WIPE, Command, invocation, packed, prefix
from llmguard.stores.redis.wire import Wire


class AsyncRedisStore:
    """Budgets of one namespace in Redis or Valkey, for one event loop.

    Every call is decided within a quarter of a second: what is not answered by then, or not after one more try on a
    fresh connection, raises :class:`~llmguard.errors.StoreUnavailable`. Trying again is safe, since every move is
    idempotent by its rid. ``clock`` chooses the store's time and works only in a keyspace of tests.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "default",
        *,
        grace_ms: int = server.GRACE_MS,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._url = url
        self._prefix = prefix(namespace, tested=clock is not None)
        self._grace_ms = grace_ms
        self._clock = clock
        self._wire = None if server.is_cluster(url) else Wire(url)

    @cached_property
    def _client(self) -> Any:
        """For the rare long commands, and for all of a cluster."""
        if self._wire:
            return Redis.from_url(self._url, **server.patience(10 * server.TIMEOUT_S))
        return RedisCluster.from_url(server.plain(self._url), **server.patience(server.TIMEOUT_S))

    async def apply(self, moves: Sequence[Move]) -> list[Answer]:
        """Apply the moves; the answers are in their order. Raises StoreUnavailable."""
        if len(moves) <= server.BATCH:
            return await self._run(Batch(moves))
        answers: list[Answer] = []
        for batch in server.batches(moves):
            answers += await self._run(Batch(batch))
        return answers

    async def _run(self, batch: Batch) -> list[Answer]:
        command = invocation(self._prefix, batch.flat, batch.blobs, self._clock() if self._clock else None)
        try:
            async with asyncio.timeout(server.TIMEOUT_S):
                try:
                    reply = await self._send(command)
                except Disconnected:
                    reply = await self._send(command)
        except server.FAILURES as error:
            if self._wire and not isinstance(error, Disconnected):  # silent, or perhaps no longer the primary
                self._wire.drop()
            raise server.unavailable(self._url, error) from error
        return batch.answers(reply)

    async def _send(self, command: Command) -> bytes:
        try:
            return await self._exchange(command)
        except ResponseError as error:
            if MISSING not in str(error):
                raise
        if self._wire:
            await self._wire.exchange(packed(INSTALL))
        else:
            await self._client.execute_command(*INSTALL, target_nodes=RedisCluster.PRIMARIES)
        return await self._exchange(command)

    async def _exchange(self, command: Command) -> bytes:
        if self._wire:
            return await self._wire.exchange(packed(command))
        reply: bytes = await self._client.execute_command(*command)
        return reply

    async def check(self) -> None:
        """Refuse a server that would lose spend: raises ConfigError, or StoreUnavailable when it does not answer."""
        with server.answering(self._url):
            info = await self._client.info()
        server.demand(self._url, info)

    async def needs_load(self) -> bool:
        """Whether the store is cold. Raises StoreUnavailable."""
        with server.answering(self._url):
            return await self._client.get(self._prefix + "epoch") is None

    async def load(self, read: Callable[[], Truth], *, rebuild: bool = False) -> bool:
        """Fill a cold store (with ``rebuild`` any) from the ledger. ``read`` is called in a thread.

        False when another process has the turn or took it over. Raises StoreUnavailable.
        """
        (turn,) = await self.apply([Begin(server.TURN_MS, rebuild)])
        if not isinstance(turn, Turn) or not turn.fence or not await self._wipe(turn.fence):
            return False
        truth = await asyncio.to_thread(read)
        for piece in pieces(truth, turn.fence):
            if server.refused(await self.apply([piece])):
                return False
        return not server.refused(await self.apply([Open(turn.fence, 0 if truth.untouched else self._grace_ms)]))

    async def _wipe(self, fence: int) -> bool:
        found: list[str | bytes] = [self._prefix + "leases"]
        with server.answering(self._url):
            async for key in self._client.scan_iter(match=self._prefix + "[br]:*", count=1_000):
                found.append(key)
                if len(found) == PIECE:
                    if not await self._delete(fence, found):
                        return False
                    found = []
            return await self._delete(fence, found)

    async def _delete(self, fence: int, keys: list[str | bytes]) -> bool:
        answer = await self._client.eval(WIPE, len(keys) + 1, self._prefix + "fence", *keys, fence)
        return bool(answer)

    async def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled (all of them while it is cold)."""
        found: list[str] = []
        for start in range(0, len(rids), PIECE):
            some = tuple(rids[start : start + PIECE])
            (known,) = await self.apply([Known(some)])
            found += known.gone if isinstance(known, Done) else some
        return found

    async def aclose(self) -> None:
        """Drop all connections."""
        if self._wire:
            self._wire.drop()
            await asyncio.sleep(0)  # the loop closes the socket in its next turn
        if "_client" in self.__dict__:
            await self._client.aclose()
