"""The quota store on Redis or Valkey for threads and worker processes: the twin of :mod:`.aio`, call by call."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster
from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

from llmguard.core.moves import Answer, Begin, Done, Known, Level, Move, Open, Truth, Turn
from llmguard.stores.pieces import PIECE, pieces
from llmguard.stores.redis import levels, server
from llmguard.stores.redis.codec import Batch
from llmguard.stores.redis.script import INSTALL, MISSING, WIPE, Command, invocation, packed, prefix


class RedisStore:
    """Budgets of one namespace in Redis or Valkey, for any number of threads, also after a fork.

    A silent server is given up after a quarter of a second; a broken connection is tried once more, which is safe,
    since every move is idempotent by its rid. Then :class:`~llmguard.errors.StoreUnavailable` is raised. ``clock``
    chooses the store's time and works only in a keyspace of tests.
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
        self._wire = None if server.is_cluster(url) else _Wire(url)

    @cached_property
    def _client(self) -> Any:
        """For the rare long commands, and for all of a cluster."""
        if self._wire:
            return Redis.from_url(self._url, **server.patience(10 * server.TIMEOUT_S))
        return RedisCluster.from_url(server.plain(self._url), **server.patience(server.TIMEOUT_S))

    def apply(self, moves: Sequence[Move]) -> list[Answer]:
        """Apply the moves; the answers are in their order. Raises StoreUnavailable."""
        answers: list[Answer] = []
        for batch in server.batches(moves):
            answers += self._run(Batch(batch))
        return answers

    def _run(self, batch: Batch) -> list[Answer]:
        command = invocation(self._prefix, batch.flat, batch.blobs, self._clock() if self._clock else None)
        with server.answering(self._url):
            try:
                reply = self._send(command)
            except Disconnected:
                reply = self._send(command)
        return batch.answers(reply)

    def _send(self, command: Command) -> bytes:
        try:
            return self._exchange(command)
        except ResponseError as error:
            if MISSING not in str(error):
                raise
        if self._wire:
            self._wire.exchange(packed(INSTALL))
        else:
            self._client.execute_command(*INSTALL, target_nodes=RedisCluster.PRIMARIES)
        return self._exchange(command)

    def _exchange(self, command: Command) -> bytes:
        if self._wire:
            return self._wire.exchange(packed(command))
        reply: bytes = self._client.execute_command(*command)
        return reply

    def check(self) -> None:
        """Refuse a server that would lose spend: raises ConfigError, or StoreUnavailable when it does not answer."""
        with server.answering(self._url):
            info = self._client.info()
        server.demand(self._url, info)

    def needs_load(self) -> bool:
        """Whether the store is cold. Raises StoreUnavailable."""
        with server.answering(self._url):
            return self._client.get(self._prefix + "epoch") is None

    def load(self, read: Callable[[], Truth], *, rebuild: bool = False) -> bool:
        """Fill a cold store (with ``rebuild`` any) from the ledger.

        False when another process has the turn or took it over. Raises StoreUnavailable.
        """
        (turn,) = self.apply([Begin(server.TURN_MS, rebuild)])
        if not isinstance(turn, Turn) or not turn.fence or not self._wipe(turn.fence):
            return False
        truth = read()
        for piece in pieces(truth, turn.fence):
            if server.refused(self.apply([piece])):
                return False
        return not server.refused(self.apply([Open(turn.fence, 0 if truth.untouched else self._grace_ms)]))

    def _wipe(self, fence: int) -> bool:
        found: list[str | bytes] = [self._prefix + "leases"]
        with server.answering(self._url):
            for key in self._client.scan_iter(match=self._prefix + "[br]:*", count=1_000):
                found.append(key)
                if len(found) == PIECE:
                    if not self._delete(fence, found):
                        return False
                    found = []
            return self._delete(fence, found)

    def _delete(self, fence: int, keys: list[str | bytes]) -> bool:
        answer = self._client.eval(WIPE, len(keys) + 1, self._prefix + "fence", *keys, fence)
        return bool(answer)

    def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled (all of them while it is cold)."""
        found: list[str] = []
        for start in range(0, len(rids), PIECE):
            some = tuple(rids[start : start + PIECE])
            (known,) = self.apply([Known(some)])
            found += known.gone if isinstance(known, Done) else some
        return found

    def levels(self, names: Sequence[str]) -> dict[str, Level] | None:
        """What buckets hold now; see :func:`llmguard.stores.redis.levels.read_levels`."""
        with server.answering(self._url):
            return levels.read(self._client, self._prefix, names)

    def close(self) -> None:
        """Drop all connections."""
        if self._wire:
            self._wire.close()
        if "_client" in self.__dict__:
            self._client.close()


class _Wire:
    """redis-py's connections without its client and pool, which cost more than the rest of a batch together."""

    def __init__(self, url: str) -> None:
        pool = ConnectionPool.from_url(url, **server.patience(server.TIMEOUT_S))
        # The pool itself counts what it ever made, and makes no more after a hundred.
        self._connect = partial(pool.connection_class, **pool.connection_kwargs)
        self._idle: deque[Any] = deque()
        self._process = os.getpid()

    def exchange(self, command: bytes) -> bytes:
        if os.getpid() != self._process:  # the parent goes on using its sockets
            self._process = os.getpid()
            self._idle.clear()
        connection = self._take()
        try:
            connection.send_packed_command([command], check_health=False)
            reply: bytes = connection.read_response()
        except ResponseError as error:
            if MISSING in str(error):
                self._idle.append(connection)
            else:  # perhaps no longer the primary: look up the name again
                connection.disconnect()
            raise
        except Disconnected:
            self.close()  # whatever broke this one has broken the others
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        return reply

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()
