"""Moves on their way to a store from threads: what travels with what, and what is owed when the store is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmguard.core.moves import Again, Answer, Done, Level, Move, Release, Truth
from llmguard.errors import StoreUnavailable
from llmguard.runtime.blocking import BlockingLink, BlockingMemoryLink
from llmguard.stores.memory import MemoryStore


class Store:
    """Keeps the batches it was sent; ``away`` and ``cold`` are set by tests."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.away = self.cold = self.closed = False
        self.lock = threading.Lock()

    def apply(self, moves: Sequence[Move]) -> list[Answer]:
        if self.away:
            raise StoreUnavailable("silent")
        with self.lock:
            self.batches.append([move.rid for move in moves if isinstance(move, Release)])
        return [Again(0, "cold") if self.cold else Done(0, True) for _ in moves]

    def load(self, read: Callable[[], Truth]) -> bool:
        return True

    def unknown(self, rids: Sequence[str]) -> list[str]:
        return []

    def levels(self, names: Sequence[str]) -> dict[str, Level] | None:
        return None

    def close(self) -> None:
        self.closed = True


def moves(*rids: str) -> list[Move]:
    return [Release(rid) for rid in rids]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def link(store: Store) -> BlockingLink:
    return BlockingLink(store)


def test_a_question_takes_along_what_waits_in_one_trip(store: Store, link: BlockingLink) -> None:
    for move in moves("a", "b"):
        link.tell(move)
    assert store.batches == []
    assert link.owed == 2
    assert isinstance(link.ask(Release("q")), Done)
    assert store.batches == [["a", "b", "q"]]
    assert link.owed == 0


def test_a_question_takes_no_more_than_64_along_and_a_flush_the_rest(store: Store, link: BlockingLink) -> None:
    for number in range(1_100):
        link.tell(Release(str(number)))
    link.ask(Release("q"))
    link.flush()
    assert [len(batch) for batch in store.batches] == [65, 500, 500, 36]
    assert [rid for batch in store.batches for rid in batch if rid != "q"] == [str(number) for number in range(1_100)]


def test_whoever_tells_asks_for_a_flush_unless_the_store_is_known_to_be_away(store: Store) -> None:
    hurried = []
    link = BlockingLink(store, lambda: hurried.append(True))
    link.tell(Release("a"))
    assert len(hurried) == 1
    store.away = True
    with pytest.raises(StoreUnavailable):
        link.flush()
    link.tell(Release("b"))
    assert len(hurried) == 1
    assert link.owed == 2


def test_what_the_store_did_not_take_is_sent_again_in_its_order_once_it_is_back(
    store: Store, link: BlockingLink
) -> None:
    store.away = True
    link.tell(Release("a"))
    with pytest.raises(StoreUnavailable, match="silent"):
        link.ask(Release("q"))
    link.tell(Release("b"))
    with pytest.raises(StoreUnavailable):
        link.flush()
    assert link.owed == 2
    store.away = False
    link.repay()
    link.tell(Release("c"))
    link.flush()
    assert store.batches == [["a", "b", "c"]]
    assert link.owed == 0


def test_what_breaks_off_a_question_owes_what_travelled_with_it(link: BlockingLink, store: Store) -> None:
    class Timeout(BaseException):
        """As gevent's."""

    def broken(moves: Sequence[Move]) -> list[Answer]:
        raise Timeout

    store.apply = broken  # type: ignore[method-assign]
    link.tell(Release("a"))
    with pytest.raises(Timeout):
        link.ask(Release("q"))
    assert link.owed == 1


def test_a_cold_store_is_told_again_and_says_that_it_is_cold(store: Store, link: BlockingLink) -> None:
    assert link.cold() is False
    store.cold = True
    assert link.cold() is True
    link.tell(Release("a"))
    link.flush()
    assert link.owed == 1
    store.cold = False
    link.repay()
    link.flush()
    assert link.owed == 0


def test_many_threads_lose_nothing_and_send_nothing_twice(store: Store, link: BlockingLink) -> None:
    def work(thread: int) -> None:
        for number in range(200):
            link.tell(Release(f"{thread}-{number}"))
            if number % 5 == 0:
                link.ask(Release("q"))
            if number % 50 == 0:
                link.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    link.close()
    sent = [rid for batch in store.batches for rid in batch if rid != "q"]
    assert sorted(sent) == sorted(f"{thread}-{number}" for thread in range(8) for number in range(200))
    assert store.closed


def test_closing_tries_once_and_says_by_owed_what_is_left(store: Store, link: BlockingLink) -> None:
    store.away = True
    link.tell(Release("a"))
    link.close()
    assert (link.owed, store.closed) == (1, True)


def test_a_store_in_memory_is_told_at_once() -> None:
    store = MemoryStore()
    link = BlockingMemoryLink(store)
    assert link.cold() is True
    assert link.levels(["usd|total"]) is None
    assert link.load(lambda: Truth((), ())) is True
    link.tell(Release("a"))
    assert link.owed == 0
    assert link.unknown(["a"]) == ["a"]
    assert "a" in store.book.records
    assert link.levels(["usd|total"]) == {}
