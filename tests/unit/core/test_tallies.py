"""Counters that expire, alone and within a reserve."""

from __future__ import annotations

import pytest

from llmguard.core.moves import Part, Rate
from llmguard.core.runs import Peek, Tally
from tests.support.book import NOW, Store, hold, reserve

CALLS = Tally("task:a", "calls", 3, 60_000)
PROMPT = Tally("task:a", "fp:1", 2, 60_000)


@pytest.fixture
def store() -> Store:
    return Store()


def counts(store: Store, name: str = "task:a") -> dict[str, int]:
    return dict(store.apply(Peek((name,))).standings[0].counts)


def test_counts_up_to_the_limit_and_never_past_it(store: Store) -> None:
    answers = [store.apply(reserve(rid, tallies=(CALLS,))) for rid in "abc"]
    assert [answer.tallied for answer in answers] == [(1,), (2,), (3,)]
    denied = store.apply(reserve("d", tallies=(CALLS,)))
    assert (denied.why, denied.index, counts(store)) == ("tally", 0, {"calls": 3})


def test_all_tallies_pass_or_none_is_counted(store: Store) -> None:
    for rid in "ab":
        store.apply(reserve(rid, tallies=(CALLS, PROMPT)))
    denied = store.apply(reserve("c", tallies=(CALLS, PROMPT)))
    assert (denied.index, counts(store), store.level()[2]) == (1, {"calls": 2, "fp:1": 2}, 200)


def test_a_tally_without_a_limit_only_counts(store: Store) -> None:
    counted = [store.apply(reserve(rid, tallies=(Tally("tree:t", "calls", 0, 60_000),))).tallied for rid in "abcd"]
    assert counted == [(1,), (2,), (3,), (4,)]


def test_samples_count_as_many(store: Store) -> None:
    many = Tally("task:a", "fp:1", 0, 60_000, add=20)
    assert store.apply(reserve("a", tallies=(many,))).tallied == (20,)


def test_all_counters_of_a_scope_end_together(store: Store) -> None:
    store.apply(reserve("a", tallies=(CALLS,)))
    store.pass_ms(59_000)
    store.apply(reserve("b", tallies=(CALLS, PROMPT)))
    assert counts(store) == {"calls": 2, "fp:1": 1}
    store.pass_ms(1_000)
    assert counts(store) == {}
    assert store.apply(reserve("c", tallies=(CALLS,))).tallied == (1,)


def test_a_call_refused_for_another_reason_is_not_counted(store: Store) -> None:
    too_dear = reserve("a", hold(2_000), tallies=(CALLS,))
    assert (store.apply(too_dear).why, counts(store)) == ("too_large", {})
    too_fast = reserve("b", rates=(Rate("r", 1, 1_000, cost=2),), tallies=(CALLS,))
    assert (store.apply(too_fast).why, counts(store)) == ("rate", {})


def test_a_refusal_for_money_gives_the_gate_s_counts_back(store: Store) -> None:
    store.apply(reserve("a", hold(2_000), tallies=(CALLS,), part=Part.GATE))
    assert counts(store) == {"calls": 1}
    denied = store.apply(reserve("a", hold(2_000), tallies=(CALLS,), part=Part.MONEY))
    assert (denied.why, counts(store)) == ("too_large", {"calls": 0})


def test_the_same_call_twice_counts_once(store: Store) -> None:
    store.apply(reserve("a", tallies=(CALLS,)))
    again = store.apply(reserve("a", tallies=(CALLS,)))
    assert (again.again, again.tallied) == (True, (1,))


def test_what_has_expired_is_swept(store: Store) -> None:
    for number in range(1_100):
        store.apply(reserve("a", hold(0), tallies=(Tally(f"task:{number}", "calls", 0, 1_000),)))
        store.book.records.clear()
    store.now = NOW + 10_000
    for number in range(1_100):
        store.apply(reserve("a", hold(0), tallies=(Tally(f"late:{number}", "calls", 0, 1_000),)))
        store.book.records.clear()
    assert not any(name.startswith("task:") for name in store.book.scopes)
