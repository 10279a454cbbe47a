"""What each event loop has for itself: made when it is first asked for there, ended with the loop."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

from llmguard.core.moves import Answer, Move
from llmguard.runtime.links import RemoteLink, RemoteStore

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One T for each event loop. ``begin`` makes it, ``end`` ends it.

    ``asyncio.run`` and its like finish the asynchronous generators of a loop before they close it, so one of them keeps
    each T.
    """

    def __init__(self, begin: Callable[[], Awaitable[T]], end: Callable[[T], Awaitable[None]]) -> None:
        self._begin = begin
        self._end = end
        self._kept: dict[AbstractEventLoop, T] = {}
        self._keepers: dict[AbstractEventLoop, AsyncGenerator[T]] = {}
        self._starts: dict[AbstractEventLoop, asyncio.Task[T]] = {}

    def here(self) -> T | None:
        """The running loop's, if it has begun."""
        return self._kept.get(asyncio.get_running_loop())

    async def get(self) -> T:
        """The running loop's. Those who come while it begins wait for the same one. Raises what ``begin`` raises."""
        found = self.here()
        return await self._start() if found is None else found

    async def end(self) -> None:
        """End the running loop's; the next who asks gets another."""
        loop = asyncio.get_running_loop()
        if (start := self._starts.get(loop)) is not None:
            await asyncio.wait([start])
        if (keeper := self._keepers.pop(loop, None)) is not None:
            await keeper.aclose()

    async def _start(self) -> T:
        loop = asyncio.get_running_loop()
        start = self._starts.get(loop)
        if start is None:
            self._forget_closed()
            # It belongs to nobody's call: whoever asks first may go away, and what it has in its context is its own.
            start = self._starts[loop] = loop.create_task(self._first(loop), context=Context())
        return await asyncio.shield(start)

    async def _first(self, loop: AbstractEventLoop) -> T:
        keeper = self._keep(loop)
        try:
            made = await anext(keeper)
            self._keepers[loop] = keeper
            return made
        finally:
            self._starts.pop(loop, None)

    async def _keep(self, loop: AbstractEventLoop) -> AsyncGenerator[T]:
        made = self._kept[loop] = await self._begin()
        try:
            yield made
        finally:
            self._kept.pop(loop, None)
            self._keepers.pop(loop, None)
            await self._end(made)

    def _forget_closed(self) -> None:
        for loop in [loop for loop in self._kept if loop.is_closed()]:
            self._kept.pop(loop, None)
            self._keepers.pop(loop, None)


class LoopLinks(PerLoop[RemoteLink]):
    """The asynchronous ways to the quota store, one for each event loop that ever asks."""

    def __init__(self, open_store: Callable[[], RemoteStore]) -> None:
        async def begin() -> RemoteLink:
            return RemoteLink(open_store())

        super().__init__(begin, RemoteLink.close)

    async def ask(self, move: Move) -> Answer:
        """Make a move in the running loop's next batch. Raises StoreUnavailable."""
        return await (self.here() or await self.get()).ask(move)
