"""The asynchronous ways to the quota store, one for each event loop that ever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from llmguard.core.moves import Answer, Move
from llmguard.runtime.links import RemoteLink, RemoteStore


class LoopLinks:
    """Opens a link in a loop when it first asks there, and closes it with the loop.

    ``asyncio.run`` and its like finish the asynchronous generators of a loop before they close it, so one of them keeps
    each link.
    """

    def __init__(self, open_store: Callable[[], RemoteStore]) -> None:
        self._open = open_store
        self._links: dict[asyncio.AbstractEventLoop, RemoteLink] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[RemoteLink]] = {}

    async def ask(self, move: Move) -> Answer:
        """Make a move in the running loop's next batch. Raises StoreUnavailable."""
        link = self._links.get(asyncio.get_running_loop()) or await self._begin()
        return await link.ask(move)

    async def _begin(self) -> RemoteLink:
        for loop in [loop for loop in self._links if loop.is_closed()]:
            self._forget(loop)
        loop = asyncio.get_running_loop()
        keeper = self._keepers[loop] = self._keep(loop)
        link = self._links[loop] = await anext(keeper)
        return link

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[RemoteLink]:
        link = RemoteLink(self._open())
        try:
            yield link
        finally:
            self._forget(loop)
            await link.close()

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        self._links.pop(loop, None)
        self._keepers.pop(loop, None)
