"""The asynchronous store's connection: commands are written as they come and answered in order.

redis-py reads the URL and its TLS options; its own asyncio connection takes longer over an exchange than everything
else about a batch together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from hiredis import Reader
from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, ResponseError

from llmguard.stores.redis.script import Command, packed

_NOTHING = object()


class Wire:
    """One connection to a server, made when it is needed. For one event loop.

    Time limits are the caller's: it wraps :meth:`exchange` in one and calls :meth:`drop` when that is over.
    """

    def __init__(self, url: str) -> None:
        pool: Any = ConnectionPool.from_url(url)
        self._target: Any = pool.make_connection()
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def exchange(self, command: bytes) -> bytes:
        """Send a command and wait for its reply. Raises redis-py's errors and OSError."""
        connection = self._connection
        if connection is None or connection.lost:
            connection = await self._connect()
        return cast("bytes", await connection.exchange(command))

    async def _connect(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                connection = await self._open()
                try:
                    for command in self._greeting():
                        await connection.exchange(packed(command))
                except BaseException:
                    connection.drop()
                    raise
                self._connection = connection
            return self._connection

    async def _open(self) -> _Connection:
        loop, target = asyncio.get_running_loop(), self._target
        if isinstance(target, UnixDomainSocketConnection):
            return (await loop.create_unix_connection(_Connection, target.path))[1]
        tls = target.ssl_context.get() if isinstance(target, SSLConnection) else None
        return (await loop.create_connection(_Connection, target.host, target.port, ssl=tls))[1]

    def _greeting(self) -> list[Command]:
        target = self._target
        commands: list[Command] = []
        if target.password:
            commands.append(("AUTH", target.username or "default", target.password))
        if target.db:
            commands.append(("SELECT", int(target.db)))
        return commands

    def drop(self) -> None:
        """Give the connection up; whoever waits for a reply on it hears that it is lost."""
        if self._connection:
            self._connection.drop()
            self._connection = None


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._replies = Reader(protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_NOTHING)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def exchange(self, command: bytes) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(reply)
        self._transport.write(command)
        return reply

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not _NOTHING:
                self._answer(self._waiting.popleft(), reply)
        except (InvalidResponse, IndexError):  # no Redis, or a reply that nobody asked for
            self.drop()

    def _answer(self, waiting: asyncio.Future[Any], reply: Any) -> None:
        if waiting.done():  # given up meanwhile
            return
        if isinstance(reply, Exception):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(Disconnected(str(error or "the server closed the connection")))

    def drop(self) -> None:
        self.lost = True
        self._transport.abort()
