"""The two ways to a quota store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from llmguard.core.moves import (
    Admitted,
    Again,
    Answer,
    Charge,
    Done,
    Hold,
    Move,
    Release,
    Reserve,
    Settle,
    Truth,
)
from llmguard.errors import StoreUnavailable
from llmguard.runtime.links import MemoryLink, RemoteLink
from llmguard.stores.memory import MemoryStore

NOW = 1_790_000_000_000


def reserve(rid: str, estimate: int = 10) -> Reserve:
    return Reserve(rid, "me", 60_000, (Hold("b", 100, 110, estimate, estimate),))


def test_a_memory_store_is_cold_until_it_is_loaded_and_then_answers_at_once() -> None:
    async def run() -> None:
        link = MemoryLink(MemoryStore(lambda: NOW))
        assert await link.cold()
        assert isinstance(link.ask(reserve("a")), Again)
        assert await link.load(lambda: Truth([Charge("b", 85)], ()))
        assert not await link.cold()
        answer = link.ask(reserve("a"))
        assert isinstance(answer, Admitted)
        assert (answer.levels[0].settled, answer.levels[0].held) == (85, 10)
        link.tell(Settle("a", 3, NOW, (Charge("b", 7),)))
        assert await link.unknown(["a", "z"]) == ["z"]
        assert link.owed == 0
        link.repay()
        await link.close()

    asyncio.run(run())


def test_what_a_cold_memory_store_is_told_is_not_counted_twice_when_the_ledger_has_it() -> None:
    """What became of a dead process's calls is told before the load, which reads the sums that contain it."""

    async def run() -> None:
        link = MemoryLink(MemoryStore(lambda: NOW))
        link.tell(Settle("dead", 1, NOW, (Charge("b", 50),)))
        await link.load(lambda: Truth([Charge("b", 50)], ()))
        answer = link.ask(reserve("a"))
        assert isinstance(answer, Admitted)
        assert answer.levels[0].settled == 50

    asyncio.run(run())


class Remote:
    """A store on a network that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[Move] = []
        self.closed = False

    async def apply(self, moves: Sequence[Move]) -> list[Answer]:
        if self.away:
            raise StoreUnavailable("away")
        self.taken += moves
        return [Done(NOW, True) for _ in moves]

    async def needs_load(self) -> bool:
        return False

    async def load(self, read: Callable[[], Truth]) -> bool:
        return bool(read())

    async def unknown(self, rids: Sequence[str]) -> list[str]:
        return list(rids)

    async def aclose(self) -> None:
        self.closed = True


def test_a_remote_link_closes_with_everything_told() -> None:
    async def run() -> None:
        store = Remote()
        link = RemoteLink(store)
        store.away = True
        link.tell(Release("a"))
        await link.drain()
        assert link.owed == 1
        store.away = False
        link.tell(Release("b"))
        await link.close()
        assert sorted(move.rid for move in store.taken if isinstance(move, Release)) == ["a", "b"]
        assert (link.owed, store.closed) == (0, True)

    asyncio.run(run())


def test_a_remote_link_closes_also_when_the_store_is_away() -> None:
    async def run() -> None:
        store = Remote()
        store.away = True
        link = RemoteLink(store)
        link.tell(Release("a"))
        await asyncio.wait_for(link.close(), 5)
        assert (link.owed, store.closed) == (1, True)

    asyncio.run(run())
