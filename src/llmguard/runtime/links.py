"""How moves reach the quota store: at once where it is in this process, else with the loop's next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from llmguard.core.moves import Answer, Move, Truth
from llmguard.runtime.batch import Batcher
from llmguard.stores.memory import MemoryStore


class Link(Protocol):
    """A way to the store."""

    @property
    def owed(self) -> int:
        """How many moves the store has not taken yet."""
        ...

    def ask(self, move: Move) -> Answer | Awaitable[Answer]:
        """Make a move and learn its answer."""
        ...

    def tell(self, move: Move) -> None:
        """Make a move that nobody waits for."""
        ...

    def repay(self) -> None:
        """Make owed moves again."""
        ...

    async def cold(self) -> bool:
        """Whether the store must be loaded before it can decide. Raises StoreUnavailable."""
        ...

    async def load(self, read: Callable[[], Truth]) -> bool:
        """Fill a cold store from the ledger (``read`` waits, so it runs in a thread)."""
        ...

    async def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled."""
        ...

    async def close(self) -> None:
        """Send what is queued and give back connections."""
        ...


class MemoryLink:
    """A store in this process: every move is answered at once."""

    owed = 0

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def ask(self, move: Move) -> Answer:
        """Make a move."""
        return self._store.apply((move,))[0]

    def tell(self, move: Move) -> None:
        """Make a move."""
        self._store.apply((move,))

    def repay(self) -> None:
        """Nothing is ever owed."""

    async def cold(self) -> bool:
        """Whether the store was not loaded yet."""
        return not self._store.book.epoch

    async def load(self, read: Callable[[], Truth]) -> bool:
        """Fill the store from the ledger."""
        return await asyncio.to_thread(self._store.load, read)

    async def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled."""
        return self._store.unknown(rids)

    async def close(self) -> None:
        """Nothing to give back."""


class RemoteStore(Protocol):
    """What a store on the network offers (:class:`llmguard.stores.redis.AsyncRedisStore`)."""

    async def apply(self, moves: Sequence[Move]) -> list[Answer]:
        """Apply a batch. Raises StoreUnavailable."""
        ...

    async def needs_load(self) -> bool:
        """Whether the store is cold."""
        ...

    async def load(self, read: Callable[[], Truth]) -> bool:
        """Fill a cold store; False while another process is at it."""
        ...

    async def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled."""
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...


class RemoteLink(Batcher):
    """A store on the network: moves travel in batches."""

    def __init__(self, store: RemoteStore) -> None:
        super().__init__(store.apply)
        self._store = store
        self.cold = store.needs_load
        self.load = store.load
        self.unknown = store.unknown

    async def close(self) -> None:
        """Send what is queued and give back connections."""
        self.repay()
        await self.drain()
        await self._store.aclose()
