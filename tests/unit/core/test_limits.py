"""The lease table, row by row."""

from __future__ import annotations

import pytest

from llmguard.core.leases import HORIZON_MS
from llmguard.core.limits import EXPOSED_MS
from llmguard.core.moves import Admitted, Assert, Denied, Done, Extend, Level, Rate, Release, Renew
from tests.support.book import HOUR, LEASE, NOW, Store, hold, reserve, settle


@pytest.fixture
def store() -> Store:
    return Store()


# ---------------------------------------------------------------------- held


def test_reserve_holds_the_estimate_and_exposes_the_cap(store: Store) -> None:
    answer = store.apply(reserve("a", hold(100, 250)))
    assert isinstance(answer, Admitted)
    assert store.level() == (0, 0, 100, 250)
    assert answer.now == NOW
    assert [(x.settled, x.orphan, x.held, x.exposure) for x in answer.levels] == [(0, 0, 100, 250)]


def test_all_buckets_of_a_call_pass_or_none_changes(store: Store) -> None:
    answer = store.apply(reserve("a", hold(name="first"), hold(100, limit=99, name="second")))
    assert (answer.why, answer.index) == ("too_large", 1)
    assert store.level("first") == (0, 0, 0, 0)
    assert store.level("second") == (0, 0, 0, 0)


def test_the_same_rid_hears_its_earlier_answer(store: Store) -> None:
    first = store.apply(reserve("a", hold(100, per_output=10, fixed=0), max_output=500, floor=10))
    again = store.apply(reserve("a", hold(100, per_output=10, fixed=0), max_output=500, floor=10))
    assert (first.max_output, first.again) == (10, False)
    assert (again.max_output, again.again) == (10, True)
    assert store.level() == (0, 0, 100, 100)


def test_renew_pushes_the_lease_of_its_owner_only(store: Store) -> None:
    store.apply(reserve("a"))
    store.apply(reserve("b", owner="p2"))
    store.pass_ms(50_000)
    answer = store.apply(Renew("p1", LEASE, ("a", "b", "unknown")))
    assert (answer.changed, answer.gone) == (True, ("b", "unknown"))
    store.pass_ms(20_000)
    assert store.level() == (0, 100, 100, 100)


def test_extend_names_absolute_amounts_and_is_checked_again(store: Store) -> None:
    store.apply(reserve("a", hold(100, 200)))
    answer = store.apply(Extend("a", LEASE, (hold(300, 400),)))
    assert (answer.changed, answer.levels[0].held, answer.levels[0].exposure) == (True, 300, 400)
    refused = store.apply(Extend("a", LEASE, (hold(1_001, 1_001),)))
    assert (refused.why, store.level()) == ("too_large", (0, 0, 300, 400))
    store.apply(Extend("a", LEASE, (hold(1_000, 1_000),)))
    assert store.level() == (0, 0, 1_000, 1_000)


def test_extend_that_does_not_grow_is_never_refused(store: Store) -> None:
    store.apply(reserve("a", hold(600)))
    assert store.apply(Extend("a", LEASE, (hold(500, limit=400),))).changed is True
    assert store.level() == (0, 0, 500, 500)


def test_extend_of_what_is_not_held_is_gone(store: Store) -> None:
    assert store.apply(Extend("a", LEASE, (hold(),))).why == "gone"
    store.apply(reserve("a"))
    store.pass_ms(LEASE)
    assert store.apply(Extend("a", LEASE, (hold(),))).why == "gone"


# ---------------------------------------------------------------------- held -> settled, released, orphan


def test_settle_replaces_the_hold_by_the_actual_amount(store: Store) -> None:
    store.apply(reserve("a", hold(100, 250)))
    assert store.apply(settle("a", 70)).changed is True
    assert store.level() == (70, 0, 0, 0)


def test_settle_again_changes_only_with_a_higher_revision(store: Store) -> None:
    store.apply(reserve("a"))
    store.apply(settle("a", 70, rev=1))
    assert store.apply(settle("a", 90, rev=1)).changed is False
    assert store.level()[0] == 70
    assert store.apply(settle("a", 90, rev=3)).changed is True
    assert store.apply(settle("a", 60, rev=2)).changed is False
    assert store.level() == (90, 0, 0, 0)


def test_settle_charges_the_window_that_admitted_it(store: Store) -> None:
    store.apply(reserve("a", hold(window_start=NOW, window_end=NOW + HOUR)))
    store.apply(Renew("p1", 2 * HOUR, ("a",)))
    store.pass_ms(HOUR)
    store.apply(settle("a", 70, window_end=NOW + HOUR))
    assert store.level() == (70, 0, 0, 0)


def test_release_takes_the_hold_out(store: Store) -> None:
    store.apply(reserve("a"))
    assert store.apply(Release("a")).changed is True
    assert store.apply(Release("a")).changed is False
    assert store.level() == (0, 0, 0, 0)


def test_an_expired_lease_becomes_an_orphan_charge(store: Store) -> None:
    store.apply(reserve("a", hold(100, 250)))
    store.pass_ms(LEASE - 1)
    assert store.level() == (0, 0, 100, 250)
    store.pass_ms(1)
    assert store.level() == (0, 100, 0, 150)
    store.pass_ms(EXPOSED_MS - 1)
    assert store.level() == (0, 100, 0, 150)
    store.pass_ms(1)
    assert store.level() == (0, 100, 0, 0)


@pytest.mark.parametrize("stall_ms", [0, EXPOSED_MS])
def test_renew_reverses_the_reaping(store: Store, stall_ms: int) -> None:
    store.apply(reserve("a", hold(100, 250)))
    store.pass_ms(LEASE)
    store.pass_ms(stall_ms)
    assert store.apply(Renew("p1", LEASE, ("a",))).gone == ()
    assert store.level() == (0, 0, 100, 250)


@pytest.mark.parametrize("stall_ms", [0, EXPOSED_MS])
def test_a_late_settle_replaces_the_orphan_charge(store: Store, stall_ms: int) -> None:
    store.apply(reserve("a", hold(100, 250)))
    store.pass_ms(LEASE)
    store.pass_ms(stall_ms)
    store.apply(settle("a", 70, at=0))
    assert store.level() == (70, 0, 0, 0)


def test_a_late_release_takes_the_orphan_charge_out(store: Store) -> None:
    store.apply(reserve("a", hold(100, 250)))
    store.pass_ms(LEASE)
    store.apply(Release("a"))
    assert store.level() == (0, 0, 0, 0)


def test_an_orphan_is_remembered_as_long_as_its_buckets(store: Store) -> None:
    store.apply(reserve("a", hold(name="total"), hold(window_start=NOW, window_end=NOW + HOUR)))
    store.pass_ms(LEASE)
    store.pass_ms(100 * 24 * HOUR)
    store.apply(Release("a"))
    assert store.level("total") == (0, 0, 0, 0)


# ---------------------------------------------------------------------- released, unknown


def test_a_bill_after_all_is_charged(store: Store) -> None:
    store.apply(reserve("a"))
    store.apply(Release("a"))
    assert store.apply(settle("a", 70)).changed is True
    assert store.level() == (70, 0, 0, 0)


def test_a_release_that_overtakes_its_reserve_has_it_refused(store: Store) -> None:
    assert store.apply(Release("a")).changed is True
    assert store.apply(reserve("a")).why == "gone"
    assert store.level() == (0, 0, 0, 0)


def test_an_unknown_settle_is_charged_once_while_it_is_young(store: Store) -> None:
    assert store.apply(settle("a", 70)).changed is True
    assert store.apply(settle("a", 70)).changed is False
    store.pass_ms(HORIZON_MS - 1)
    assert store.apply(settle("a", 70)).changed is False
    store.pass_ms(1)
    assert store.apply(settle("a", 70)).why == "gone"
    assert store.level() == (70, 0, 0, 0)


def test_an_ended_call_is_forgotten_after_the_horizon(store: Store) -> None:
    store.apply(settle("a", 70))
    store.pass_ms(HORIZON_MS)
    assert store.book.records == {}


def test_assert_enters_a_live_lease_unchecked(store: Store) -> None:
    store.apply(reserve("full", hold(1_000)))
    move = Assert("a", "p1", LEASE, (hold(100, fixed=50, per_output=2),), 100)
    assert store.apply(move).changed is True
    assert store.apply(move).changed is False
    assert store.level() == (0, 0, 1_100, 1_250)


def test_an_operator_lowers_a_sum_by_a_signed_settle(store: Store) -> None:
    store.apply(settle("a", 70))
    store.apply(settle("correction-1", -30))
    assert store.level() == (40, 0, 0, 0)


# ---------------------------------------------------------------------- batches


def test_a_batch_has_one_time_and_shows_what_it_leaves(store: Store) -> None:
    moves = [reserve("a", hold(400)), reserve("b", hold(500)), reserve("c", hold(200)), settle("a", 100)]
    first, second, third, fourth = store.book.apply(moves, NOW)
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert repr(first.levels) == repr(second.levels) == repr((Level(100, 0, 500, 500),))
    assert isinstance(third, Denied)
    assert (third.why, repr(third.level)) == ("contended", repr(Level(0, 0, 900, 900)))
    assert isinstance(fourth, Done)


def test_dead_leases_are_reaped_a_few_at_a_time(store: Store) -> None:
    store.book.apply([reserve(f"{i:03}", hold(10)) for i in range(100)], NOW)
    store.now = NOW + LEASE
    store.book.apply([], store.now)
    assert store.level() == (0, 320, 680, 680)
    for _ in range(3):
        store.book.apply([], store.now)
    assert store.level() == (0, 1_000, 0, 0)


def test_what_expired_is_swept_out(store: Store) -> None:
    store.book.apply(
        [reserve(f"{i}", hold(name=f"b{i}", window_start=NOW, window_end=NOW + 1)) for i in range(600)], NOW
    )
    store.book.apply([reserve(f"r{i}", hold(0), rates=(Rate(f"rate{i}", 1, 1_000),)) for i in range(600)], NOW)
    store.pass_ms(49 * HOUR)
    assert (len(store.book.balances), len(store.book.meters)) == (1, 0)
