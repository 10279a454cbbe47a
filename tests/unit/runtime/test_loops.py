"""Links to a store on the network, one for each event loop, closed with it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence

import pytest
import uvloop

from llmguard.core.moves import Answer, Done, Move, Release, Truth
from llmguard.errors import StoreUnavailable
from llmguard.runtime.loops import LoopLinks


class Store:
    """Counts batches; belongs to the loop in which it is first used."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.away = False
        self.closed_in: asyncio.AbstractEventLoop | None = None

    async def apply(self, moves: Sequence[Move]) -> list[Answer]:
        if self.away:
            raise StoreUnavailable("silent")
        self.batches.append(len(moves))
        await asyncio.sleep(0)
        return [Done(0, True) for _ in moves]

    async def needs_load(self) -> bool:
        return False

    async def load(self, read: Callable[[], Truth]) -> bool:
        return True

    async def unknown(self, rids: Sequence[str]) -> list[str]:
        return []

    async def aclose(self) -> None:
        self.closed_in = asyncio.get_running_loop()


class Opened:
    """Every store that was opened."""

    def __init__(self) -> None:
        self.stores: list[Store] = []
        self.links = LoopLinks(self.open)

    def open(self) -> Store:
        self.stores.append(Store())
        return self.stores[-1]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_each_loop_has_a_link_of_its_own_that_ends_with_it(run: Callable[..., None]) -> None:
    opened = Opened()
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        answers = await asyncio.gather(*[opened.links.ask(Release(str(number))) for number in range(10)])
        assert all(isinstance(answer, Done) for answer in answers)
        await opened.links.ask(Release("more"))

    for _ in range(3):
        run(main())
    assert [sum(store.batches) for store in opened.stores] == [11, 11, 11]
    assert all(len(store.batches) <= 3 for store in opened.stores), "not in batches"
    assert all(store.closed_in is not None for store in opened.stores)
    assert opened.links._kept == opened.links._keepers == {}
    for store in opened.stores:
        store.closed_in = None
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


def test_a_loop_that_was_closed_without_a_word_is_forgotten_with_the_next_one() -> None:
    opened = Opened()

    async def ask() -> None:
        await opened.links.ask(Release("a"))

    careless = asyncio.new_event_loop()
    careless.run_until_complete(ask())
    careless.close()
    assert list(opened.links._kept) == [careless]
    asyncio.run(ask())
    assert opened.links._kept == {}


def test_a_store_that_is_away_is_heard_of_in_the_coroutine_that_asked() -> None:
    opened = Opened()

    async def main() -> None:
        await opened.links.ask(Release("a"))
        opened.stores[0].away = True
        with pytest.raises(StoreUnavailable, match="silent"):
            await opened.links.ask(Release("b"))

    asyncio.run(main())
