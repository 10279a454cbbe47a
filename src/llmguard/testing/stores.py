"""What every quota store has to do, as tests to inherit.

::

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store(self, clock):
            store = MyStore(clock=clock)
            yield store
            store.close()

The same moves go to the store and to the reference, :class:`llmguard.stores.memory.MemoryStore`, and every answer must
be equal, whatever callers and faults make of their order. A store has the reference's methods, and is empty and cold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pytest

from llmguard.core.executions import REMEMBERED
from llmguard.core.leases import Lease, Status
from llmguard.core.limits import Book
from llmguard.core.moves import Admitted, Again, Answer, Charge, Hold, Level, Move, Reserve, Settle, Truth
from llmguard.core.runs import BreakerTerms, Enter, Leave, Paid, Peek
from llmguard.stores.memory import MemoryStore
from llmguard.testing.traffic import YEAR_2100, Traffic

EMPTY = Truth((), ())
"""A ledger without a call."""


class Store(Protocol):
    """A quota store for threads; see :class:`llmguard.stores.memory.MemoryStore` for what each method does."""

    def apply(self, moves: Sequence[Move]) -> list[Answer]:
        """Apply moves as one."""
        ...

    def needs_load(self) -> bool:
        """Whether it is cold."""
        ...

    def load(self, read: Callable[[], Truth], *, rebuild: bool = False) -> bool:
        """Fill it from the ledger."""
        ...

    def unknown(self, rids: Sequence[str]) -> list[str]:
        """Calls that it does not know as settled."""
        ...

    def levels(self, names: Sequence[str]) -> dict[str, Level] | None:
        """What buckets hold."""
        ...

    def close(self) -> None:
        """Give back what it has."""
        ...


class StoreClock:
    """The time of a store under test: epoch milliseconds, which the test sets."""

    def __init__(self, now: int = YEAR_2100) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Pair:
    """The reference and a store under one clock. Their answers must be equal."""

    def __init__(self, store: Store, clock: StoreClock) -> None:
        self.reference = MemoryStore(clock)
        self.store = store
        self.clock = clock

    def load(self, truth: Truth = EMPTY, *, rebuild: bool = False) -> None:
        """Fill both from the same ledger."""
        assert self.reference.load(lambda: truth, rebuild=rebuild) is True
        assert self.store.load(lambda: truth, rebuild=rebuild) is True

    def apply(self, moves: Sequence[Move]) -> list[Any]:
        """Make the same moves on both; the answers."""
        expected = self.reference.apply(moves)
        got = self.store.apply(moves)
        for move, mine, theirs in zip(moves, expected, got, strict=True):
            assert repr(theirs) == repr(mine), move
        return expected


class StoreSuite:
    """Inherit it in a class named `Test…` and override the fixture `store`.

    ``seeds`` and ``batches`` say how much random traffic there is. :meth:`compare` may look deeper than answers do.
    """

    seeds: Sequence[int] = range(3)
    batches = 200

    @pytest.fixture
    def clock(self) -> StoreClock:
        """The clock that the store has to go by."""
        return StoreClock()

    @pytest.fixture
    def store(self, clock: StoreClock) -> Any:
        """An empty store that goes by ``clock``."""
        raise NotImplementedError("override the fixture `store`: an empty store that goes by `clock`")

    @pytest.fixture
    def pair(self, store: Store, clock: StoreClock) -> Pair:
        """The store beside the reference, both cold."""
        return Pair(store, clock)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One run for each seed."""
        if "traffic_seed" in metafunc.fixturenames:
            metafunc.parametrize("traffic_seed", self.seeds)

    def compare(self, pair: Pair) -> None:
        """Both hold the same in every bucket."""
        names = list(pair.reference.book.balances)
        assert repr(pair.store.levels(names)) == repr(pair.reference.levels(names))

    def test_random_moves_get_the_same_answers(self, pair: Pair, traffic_seed: int) -> None:
        """Calls, tasks, repeats, late and lost messages, reloads, and windows that end meanwhile."""
        traffic = Traffic(traffic_seed)
        pair.clock.now = traffic.now
        assert isinstance(pair.apply(traffic.batch())[0], Again)
        assert pair.store.needs_load()
        pair.load()
        for step in range(1, self.batches + 1):
            pair.clock.now = traffic.advance()
            moves = traffic.batch()
            traffic.learn(moves, pair.apply(moves))
            holds_what_live_leases_hold(pair.reference.book)
            if step % 25 == 0:
                self.compare(pair)
            if step % 150 == 0:
                pair.load(traffic.truth(), rebuild=True)
                self.compare(pair)

    def test_more_lost_runs_than_are_kept_one_by_one_are_counted(self, pair: Pair) -> None:
        """Runs of a task that never ended are counted as lost, however many they are."""
        pair.load()
        for number in range(REMEMBERED + 4):
            pair.apply([Enter("task:a", f"r{number}", "name:x", 1_000), Paid("task:a", f"r{number}")])
            pair.clock.now += 1_000
        self.compare(pair)
        (seen,) = pair.apply([Peek(("task:a", "name:x"))])
        assert (seen.standings[0].lost, seen.standings[0].paid) == (REMEMBERED + 4, REMEMBERED + 4)
        late = Leave("task:a", "r0", "name:x", False, True, False), Leave("task:a", "r9", "name:x", True, True, True)
        pair.apply(late)
        self.compare(pair)

    def test_a_breaker_opens_and_its_canaries_decide(self, pair: Pair) -> None:
        """Three failures open it, each canary closes or keeps it open, two good ones close it."""
        verdicts = []
        pair.load()
        for step, succeeded in enumerate((False, False, False, False, False, False, True, True)):
            enter = Enter(f"task:{step}", "r", "name:x", 60_000, breaker=BreakerTerms(3, 500_000, 90_000))
            (entered,) = pair.apply([enter])
            verdicts.append((entered.verdict, entered.opened))
            if entered.verdict == "go":
                pair.apply([Leave(f"task:{step}", "r", "name:x", succeeded, True, succeeded)])
            self.compare(pair)
            pair.clock.now += 90_000 if entered.opened or step == 4 else 5_000
        opened = [("go", False)] * 3 + [("breaker", True), ("go", False), ("go", False)]
        assert verdicts == [*opened, ("breaker", False), ("breaker", False)]
        pair.clock.now += 90_000
        last = Enter("task:9", "r", "name:x", 60_000, breaker=BreakerTerms(3, 500_000, 90_000))
        assert pair.apply([last, Leave("task:9", "r", "name:x", True, True, True)])[0].verdict == "go"
        assert pair.apply([Peek(("name:x",))])[0].standings[0].open_until is None
        self.compare(pair)

    def test_amounts_beyond_nine_million_dollars_are_exact(self, pair: Pair) -> None:
        """More nano-USD than a double can hold, to the last one."""
        huge = 3 * 2**53 + 1
        pair.load(Truth((Charge("usd|total", huge), Charge("usd|other", 2**52 - 1)), ()))
        now = pair.clock.now
        pair.apply([Settle("a", 3, now, (Charge("usd|total", 3), Charge("usd|other", 2**20 + 1)))])
        pair.apply([Settle("b", 3, now, (Charge("usd|total", 1), Charge("usd|other", 1)))])
        self.compare(pair)
        levels = pair.store.levels(["usd|total"])
        assert levels is not None
        assert levels["usd|total"].settled == huge + 4

    def test_what_is_settled_is_known(self, pair: Pair) -> None:
        """Reconciliation asks for the calls that the store has not heard of."""
        pair.load()
        pair.apply([Settle("a", 3, pair.clock.now, (Charge("usd|total", 1),))])
        assert pair.store.unknown(["a", "b"]) == ["b"]

    def test_500_threads_never_overshoot(self, store: Store) -> None:
        """Room for 100 calls, and 500 that ask at once: 100 are admitted."""
        store.load(lambda: EMPTY)
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda number: store.apply([thousand(f"{number:03}")])[0], range(500)))
        admitted = [f"{number:03}" for number, answer in enumerate(answers) if isinstance(answer, Admitted)]
        assert len(admitted) == 100
        store.apply([settled(rid) for rid in admitted])
        assert repr(store.levels(["tokens|total"])) == repr({"tokens|total": Level(100_000, 0, 0, 0)})


def thousand(rid: str) -> Reserve:
    """A call of a thousand tokens, of a budget of a hundred thousand."""
    return Reserve(rid, "p1", 60_000, (Hold("tokens|total", 100_000, 100_000, 1_000, 1_000),))


def settled(rid: str) -> Settle:
    """Its end."""
    return Settle(rid, 3, 0, (Charge("tokens|total", 1_000),))


def holds_what_live_leases_hold(book: Book) -> None:
    """Held is exactly what live leases hold, and no amount is negative."""
    held: dict[str, int] = {}
    for lease in book.records.values():
        if isinstance(lease, Lease) and lease.status is Status.HELD:
            for taken in lease.taken:
                balance = book.balances.get(taken.name)
                if taken.concurrency or (balance and balance.since <= lease.seq):  # else its bucket has expired
                    held[taken.name] = held.get(taken.name, 0) + taken.estimate
    for name, balance in book.balances.items():
        assert balance.held == held.get(name, 0), name
        assert min(balance.held, balance.orphan, balance.exposure) >= 0, name
