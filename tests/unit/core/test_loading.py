"""A cold store and how it becomes warm."""

from __future__ import annotations

import pytest

from llmguard.core.limits import Book
from llmguard.core.moves import (
    Admitted,
    Again,
    Assert,
    Begin,
    Charge,
    Counted,
    Extend,
    Known,
    Load,
    Open,
    Release,
    Renew,
    Trip,
    Untrip,
    sub_window_end,
)
from tests.support.book import HOUR, LEASE, NOW, Store, hold, reserve, settle


@pytest.fixture
def store() -> Store:
    return Store()


# ---------------------------------------------------------------------- cold


def test_a_new_store_is_cold_and_answers_nothing_else() -> None:
    book = Book()
    moves = [reserve("a"), Extend("a", 1, ()), Renew("p", 1, ()), settle("a", 1), Release("a"), Known(("a",))]
    answers = book.apply([*moves, Assert("a", "p", 1, (), 0), Trip("t"), Untrip("t"), Load(0, ())], NOW)
    assert all(isinstance(answer, Again) and answer.why == "cold" for answer in answers)
    assert book.records == {}


def test_reserves_stay_cold_for_a_grace_in_which_leases_are_asserted() -> None:
    store = Store(grace_ms=20_000)
    assert store.apply(Assert("live", "p1", LEASE, (hold(900),), 0)).changed is True
    assert store.apply(settle("b", 50)).changed is True
    store.pass_ms(19_999)
    assert store.apply(reserve("a")).why == "cold"
    store.pass_ms(1)
    assert store.apply(reserve("a")).why == "contended"


def test_a_load_is_absolute_and_remembers_what_it_counted() -> None:
    store = Store()
    store.apply(reserve("old", hold(500)))
    store.apply(settle("stale", 500))
    turn = store.apply(Begin(LEASE, rebuild=True))
    assert store.apply(settle("b", 1)).why == "cold"
    counted = Counted("a", 1, (Charge("usd|day", 300),))
    for _ in range(2):  # pieces may be repeated
        assert store.apply(Load(turn.fence, (Charge("usd|day", 700),), (counted,))).changed is True
    assert store.apply(Open(turn.fence, 0)).changed is True
    assert store.apply(Open(turn.fence, 0)).changed is False
    assert store.level() == (700, 0, 0, 0)
    assert store.apply(settle("a", 300, rev=1)).changed is False
    assert store.apply(settle("a", 310, rev=3)).changed is True
    assert store.level() == (710, 0, 0, 0)
    assert store.apply(reserve("b", hold(1, alerts=(500, 710)))).crossed == ((0, 710),)


def test_only_one_process_has_the_turn_and_an_old_fence_changes_nothing() -> None:
    store = Store()
    assert store.apply(Begin(LEASE)).fence == 0  # warm
    first = store.apply(Begin(LEASE, rebuild=True))
    assert store.apply(Begin(LEASE)).fence == 0
    store.pass_ms(LEASE - 1)
    store.apply(Load(first.fence, ()))  # shows life
    store.pass_ms(LEASE - 1)
    assert store.apply(Begin(LEASE)).fence == 0
    store.pass_ms(1)
    second = store.apply(Begin(LEASE))
    assert second.fence == first.fence + 1
    assert store.apply(Load(first.fence, (Charge("usd|day", 1),))).why == "gone"
    assert store.apply(Open(first.fence, 0)).why == "gone"
    assert store.apply(Open(second.fence, 0)).changed is True


def test_a_new_rule_starts_from_the_ledgers_sum_and_touches_no_other_bucket(store: Store) -> None:
    store.apply(settle("a", 70))
    answer = store.apply(Load(0, (Charge("usd|day", 1), Charge("usd|month", 5_000))))
    assert answer.changed is True
    assert (store.level(), store.level("usd|month")) == ((70, 0, 0, 0), (5_000, 0, 0, 0))
    assert store.apply(Load(0, (Charge("usd|month", 1),))).changed is False


def test_rolling_sums_are_loaded_by_sub_bucket(store: Store) -> None:
    turn = store.apply(Begin(LEASE, rebuild=True))
    ends = [sub_window_end(NOW - minutes * 60_000, HOUR) for minutes in (0, 30, 200)]
    for _ in range(2):
        store.apply(Load(turn.fence, tuple(Charge("usd|rolling", 100, end, rolling_ms=HOUR) for end in ends)))
    store.apply(Open(turn.fence, 0))
    assert store.level("usd|rolling") == (200, 0, 0, 0)
    store.pass_ms(31 * 60_000)
    assert store.level("usd|rolling") == (100, 0, 0, 0)


def test_a_store_that_forgot_writes_goes_cold(store: Store) -> None:
    seq = store.apply(reserve("a")).seq
    store.book.seq -= 1  # a replica that missed the last batch takes over
    answers = store.book.apply([reserve("b", seq=seq), settle("a", 1)], NOW)
    assert [answer.why for answer in answers if isinstance(answer, Again)] == ["cold", "cold"]
    turn = store.apply(Begin(LEASE))
    store.apply(Open(turn.fence, 0))
    assert isinstance(store.apply(reserve("b", seq=seq)), Admitted)


def test_sequence_numbers_survive_a_flush() -> None:
    seen = Store().apply(reserve("a")).seq
    flushed = Store()
    flushed.now = NOW + 1
    turn = flushed.apply(Begin(LEASE, rebuild=True))
    flushed.apply(Open(turn.fence, 0))
    assert flushed.apply(reserve("b", seq=seen)).seq > seen


def test_known_names_what_is_not_settled(store: Store) -> None:
    store.apply(settle("settled", 1))
    store.apply(reserve("held"))
    store.apply(Release("released"))
    answer = store.apply(Known(("held", "settled", "released", "unknown")))
    assert (answer.changed, answer.gone) == (False, ("held", "released", "unknown"))
