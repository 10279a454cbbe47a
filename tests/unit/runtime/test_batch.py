"""Moves travel in batches, and what the store did not take is owed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmguard.core.moves import Again, Answer, Done, Extend, Move, Release
from llmguard.errors import StoreUnavailable
from llmguard.runtime.batch import Batcher


class Store:
    """Keeps the batches; waits for ``gate``; fails while ``away``."""

    def __init__(self) -> None:
        self.batches: list[list[Move]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False
        self.cold = False

    async def apply(self, moves: Sequence[Move]) -> list[Answer]:
        self.batches.append(list(moves))
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("away")
        return [Again(0, "cold") if self.cold else Done(i, True) for i, _ in enumerate(moves)]


def extend(rid: str) -> Extend:
    return Extend(rid, 1, ())


def test_the_moves_of_one_tick_go_together_and_each_gets_its_own_answer() -> None:
    async def run() -> None:
        store = Store()
        batcher = Batcher(store.apply)
        futures = [batcher.ask(extend(str(i))) for i in range(3)]
        batcher.tell(Release("r"))
        answers = await asyncio.gather(*futures)
        assert [len(b) for b in store.batches] == [4]
        assert [a.now for a in answers] == [0, 1, 2]

    asyncio.run(run())


def test_at_most_two_batches_travel_and_the_rest_gathers() -> None:
    async def run() -> None:
        store = Store()
        store.gate.clear()
        batcher = Batcher(store.apply)
        futures = []
        for i in range(5):
            futures.append(batcher.ask(extend(str(i))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert [len(b) for b in store.batches] == [1, 1]
        store.gate.set()
        await asyncio.gather(*futures)
        assert [len(b) for b in store.batches] == [1, 1, 3]

    asyncio.run(run())


def test_who_waits_hears_that_the_store_is_away_and_who_does_not_is_owed() -> None:
    async def run() -> None:
        store = Store()
        store.away = True
        batcher = Batcher(store.apply)
        future = batcher.ask(extend("a"))
        batcher.tell(Release("b"))
        with pytest.raises(StoreUnavailable):
            await future
        await batcher.drain()
        assert batcher.owed == 1
        store.away = False
        batcher.repay()
        await batcher.drain()
        assert batcher.owed == 0
        assert [type(m).__name__ for m in store.batches[-1]] == ["Release"]

    asyncio.run(run())


def test_who_stands_in_line_for_a_store_that_is_away_hears_it_with_the_first() -> None:
    async def run() -> None:
        store = Store()
        store.away = True
        store.gate.clear()
        batcher = Batcher(store.apply)
        first = [batcher.ask(extend("a"))]
        await asyncio.sleep(0)
        first.append(batcher.ask(extend("b")))
        await asyncio.sleep(0)
        in_line = batcher.ask(extend("c"))
        batcher.tell(Release("d"))
        store.gate.set()
        for future in (*first, in_line):
            with pytest.raises(StoreUnavailable):
                await future
        await batcher.drain()
        asked = [move.rid for batch in store.batches for move in batch if isinstance(move, Extend)]
        assert asked == ["a", "b"]
        assert batcher.owed == 1

    asyncio.run(run())


def test_a_cold_store_is_told_again_later() -> None:
    async def run() -> None:
        store = Store()
        store.cold = True
        batcher = Batcher(store.apply)
        batcher.tell(Release("b"))
        await batcher.drain()
        assert batcher.owed == 1

    asyncio.run(run())


def test_a_caller_who_left_does_not_disturb_the_batch() -> None:
    async def run() -> None:
        store = Store()
        batcher = Batcher(store.apply)
        gone, stays = batcher.ask(extend("gone")), batcher.ask(extend("stays"))
        gone.cancel()
        assert (await stays).now == 1
        assert len(store.batches[0]) == 2

    asyncio.run(run())
