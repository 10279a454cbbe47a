"""Who is admitted and who is refused, and why."""

from __future__ import annotations

import pytest

from llmguard.core.moves import (
    NO_LIMIT,
    Admitted,
    Charge,
    Correct,
    Hold,
    Part,
    Rate,
    Release,
    Renew,
    Settle,
    Trip,
    Untrip,
    sub_window_end,
)
from tests.support.book import HOUR, LEASE, NOW, Store, hold, reserve, settle


@pytest.fixture
def store() -> Store:
    return Store()


# ---------------------------------------------------------------------- refusals


def test_why_says_spent_when_settled_and_orphans_reach_the_limit(store: Store) -> None:
    store.apply(settle("a", 600))
    store.apply(reserve("b", hold(400)))
    store.pass_ms(LEASE)
    answer = store.apply(reserve("c", hold(1)))
    assert (answer.why, answer.level.settled, answer.level.orphan) == ("spent", 600, 400)


def test_why_says_contended_when_only_live_holds_are_in_the_way(store: Store) -> None:
    store.apply(reserve("a", hold(950)))
    assert store.apply(reserve("b", hold(100))).why == "contended"
    store.apply(Release("a"))
    assert isinstance(store.apply(reserve("b", hold(100))), Admitted)


def test_why_says_insufficient_when_the_rest_is_too_small(store: Store) -> None:
    store.apply(settle("a", 950))
    assert store.apply(reserve("b", hold(100))).why == "insufficient"


def test_why_says_too_large_when_the_empty_budget_would_not_do(store: Store) -> None:
    assert store.apply(reserve("a", hold(1_001))).why == "too_large"
    assert store.apply(reserve("b", hold(10, 1_101, ceiling=1_100))).why == "too_large"
    assert isinstance(store.apply(reserve("c", hold(10, 1_100, ceiling=1_100))), Admitted)


def test_the_most_lasting_reason_of_all_buckets_is_told(store: Store) -> None:
    store.apply(settle("a", 1_000))
    store.apply(reserve("b", hold(950, name="busy")))
    answer = store.apply(reserve("c", hold(100, name="busy"), hold(1)))
    assert (answer.why, answer.index) == ("spent", 1)


def test_refusals_are_counted_in_their_bucket(store: Store) -> None:
    for rid in "abc":
        store.apply(reserve(rid, hold(1_001)))
    assert store.book.balances["usd|day"].denied == 3


def test_a_bucket_that_only_counts_refuses_nothing(store: Store) -> None:
    answer = store.apply(reserve("a", hold(10**15, limit=NO_LIMIT, per_output=10**12), max_output=128_000))
    assert (type(answer), answer.max_output) == (Admitted, None)


def test_a_window_must_contain_the_stores_time(store: Store) -> None:
    early = hold(window_start=NOW + 1, window_end=NOW + HOUR)
    late = hold(window_start=NOW - HOUR, window_end=NOW)
    assert [store.apply(reserve(rid, h)).why for rid, h in (("a", early), ("b", late))] == ["window", "window"]
    assert isinstance(store.apply(reserve("c", hold(window_start=NOW, window_end=NOW + 1))), Admitted)


def test_stale_rules_are_told(store: Store) -> None:
    assert isinstance(store.apply(reserve("a", rules=7)), Admitted)
    assert store.apply(reserve("b", rules=6)).why == "stale"
    assert store.apply(reserve("b")).why == "stale"


def test_a_trip_refuses_until_it_is_lifted_or_over(store: Store) -> None:
    assert store.apply(Trip("job-1")).changed is True
    assert store.apply(Trip("job-1")).changed is False
    answer = store.apply(reserve("a", trips=("job-0", "job-1")))
    assert (answer.why, answer.index) == ("tripped", 1)
    assert store.apply(Untrip("job-1")).changed is True
    assert store.apply(Untrip("job-1")).changed is False
    assert isinstance(store.apply(reserve("a", trips=("job-1",))), Admitted)
    store.apply(Trip("job-2", NOW + 10))
    assert store.apply(reserve("b", trips=("job-2",))).why == "tripped"
    store.pass_ms(10)
    assert isinstance(store.apply(reserve("b", trips=("job-2",))), Admitted)


# ---------------------------------------------------------------------- max_tokens


def test_a_named_maximum_is_lowered_to_what_fits_every_bucket(store: Store) -> None:
    store.apply(reserve("other", hold(100, 400)))
    tight = hold(50, 100, per_output=3)  # (1,000 - 400 - 100) / 3 = 166
    wide = hold(50, 100, limit=10_000, per_output=3, name="wide")
    answer = store.apply(reserve("a", tight, wide, max_output=1_000, named=True, floor=50))
    assert answer.max_output == 166
    assert store.level() == (0, 0, 150, 400 + 100 + 3 * 166)
    assert store.level("wide") == (0, 0, 50, 100 + 3 * 166)


def test_an_unnamed_maximum_is_a_share_of_what_is_left(store: Store) -> None:
    answer = store.apply(reserve("a", hold(10, 40, per_output=1), max_output=1_000, floor=20))
    assert answer.max_output == (1_000 - 40) // 32
    assert store.level() == (0, 0, 10, 40 + 30)


def test_the_share_is_never_below_the_floor(store: Store) -> None:
    answer = store.apply(reserve("a", hold(10, 40, per_output=1), max_output=1_000, floor=500))
    assert answer.max_output == 500


def test_a_maximum_that_fits_is_not_touched(store: Store) -> None:
    answer = store.apply(reserve("a", hold(10, 40, per_output=1), max_output=30, floor=20))
    assert answer.max_output is None


@pytest.mark.parametrize(("floor", "clamp"), [(961, True), (0, False)])
def test_what_does_not_fit_with_the_floor_is_refused(store: Store, floor: int, clamp: bool) -> None:
    move = reserve("a", hold(10, 40, per_output=1), max_output=1_000, named=True, floor=floor, clamp=clamp)
    assert store.apply(move).why == "too_large"


def test_a_cap_is_never_below_its_estimate(store: Store) -> None:
    store.apply(reserve("a", hold(100, 30)))
    assert store.level() == (0, 0, 100, 100)
    store.pass_ms(LEASE)
    assert store.level() == (0, 100, 0, 0)


# ---------------------------------------------------------------------- gate


LIVE = Hold("calls|live", 2, 2, 1, concurrency=True)
RATE = Rate("requests", 3, 3_000)


def test_live_calls_are_given_back_however_the_lease_ends(store: Store) -> None:
    for rid in "ab":
        store.apply(reserve(rid, LIVE))
    assert (store.apply(reserve("c", LIVE)).why, store.level("calls|live")) == ("concurrency", (0, 0, 2, 0))
    store.apply(Settle("a", 3, NOW, (Charge("calls|live", 0, concurrency=True),)))
    store.apply(reserve("c", LIVE))
    store.apply(Release("b"))
    assert store.level("calls|live") == (0, 0, 1, 0)
    store.pass_ms(LEASE)
    assert "calls|live" not in store.book.balances
    store.apply(Renew("p1", LEASE, ("c",)))
    assert store.level("calls|live") == (0, 0, 1, 0)


def test_a_rate_says_exactly_when_the_next_call_fits(store: Store) -> None:
    lefts = [store.apply(reserve(rid, rates=(RATE,))).rate_left for rid in "abc"]
    assert lefts == [((2, 1_000),), ((1, 2_000),), ((0, 3_000),)]
    answer = store.apply(reserve("d", rates=(RATE,)))
    assert (answer.why, answer.index, answer.retry_ms) == ("rate", 0, 1_000)
    store.pass_ms(999)
    assert store.apply(reserve("d", rates=(RATE,))).retry_ms == 1
    store.pass_ms(1)
    assert isinstance(store.apply(reserve("d", rates=(RATE,))), Admitted)


def test_tokens_per_minute_are_corrected_when_the_call_ends(store: Store) -> None:
    rate = Rate("tokens", 1_000, 60_000, 800, settles=True)
    store.apply(reserve("a", rates=(rate,)))
    store.apply(Settle("a", 3, NOW, (), (Correct("tokens", 60_000, 1_000, 100 - 800),)))
    assert store.apply(reserve("b", rates=(rate,))).rate_left == ((100, 54_000),)
    store.apply(Release("b", (Correct("tokens", 60_000, 1_000, -800),)))
    assert store.apply(reserve("c", rates=(rate,))).rate_left == ((100, 54_000),)


def test_a_repeated_end_corrects_nothing(store: Store) -> None:
    correct = (Correct("tokens", 60_000, 1_000, 300),)
    store.apply(Settle("unknown", 1, NOW, (), correct))
    store.apply(Settle("unknown", 3, NOW, (), correct))
    assert store.book.meters == {}


def test_gate_and_money_are_taken_one_after_the_other(store: Store) -> None:
    move = reserve("a", hold(), LIVE, rates=(RATE,), part=Part.GATE)
    gate = store.apply(move)
    assert [(x.held, x.exposure) for x in gate.levels] == [(0, 0), (1, 0)]
    assert store.apply(move).again is True
    move.part = Part.MONEY
    money = store.apply(move)
    assert [(x.held, x.exposure) for x in money.levels] == [(100, 100), (1, 0)]
    assert money.rate_left == ((2, 1_000),)
    assert store.apply(move).again is True


def test_a_denied_money_part_gives_its_gate_back(store: Store) -> None:
    move = reserve("a", hold(1_001), LIVE, rates=(RATE,), part=Part.GATE)
    store.apply(move)
    move.part = Part.MONEY
    assert store.apply(move).why == "too_large"
    assert "calls|live" not in store.book.balances
    assert store.book.meters == {}
    assert store.book.records == {}


def test_a_money_part_without_its_gate_takes_it_along(store: Store) -> None:
    move = reserve("a", hold(), LIVE, rates=(RATE,), part=Part.MONEY)
    assert store.apply(move).rate_left == ((2, 1_000),)
    assert store.level("calls|live") == (0, 0, 1, 0)


def test_a_cache_hit_keeps_its_request_counted_but_no_call(store: Store) -> None:
    store.apply(reserve("a", hold(), LIVE, rates=(RATE,), part=Part.GATE))
    store.apply(Release("a"))
    assert "calls|live" not in store.book.balances
    assert store.apply(reserve("b", LIVE, rates=(RATE,))).rate_left == ((1, 2_000),)


# ---------------------------------------------------------------------- windows and thresholds


def rolling(estimate: int = 0) -> Hold:
    return hold(estimate, name="usd|rolling", rolling_ms=HOUR)


def test_a_rolling_window_never_lets_its_limit_through_twice(store: Store) -> None:
    store.now = NOW - NOW % HOUR + 59_999  # the last moment of a sub-bucket
    store.apply(reserve("a", rolling(1_000)))
    charge = Charge("usd|rolling", 1_000, sub_window_end(store.now, HOUR), rolling_ms=HOUR)
    store.apply(Settle("a", 3, store.now, (charge,)))
    store.pass_ms(HOUR)
    assert store.apply(reserve("b", rolling(1))).why == "spent"
    store.pass_ms(1)
    assert isinstance(store.apply(reserve("b", rolling(1_000))), Admitted)


def test_orphans_leave_a_rolling_window_with_their_admission(store: Store) -> None:
    store.apply(reserve("a", rolling(400)))
    store.pass_ms(LEASE)
    assert store.level("usd|rolling") == (0, 400, 0, 0)
    store.pass_ms(HOUR + 60_000)
    assert store.level("usd|rolling") == (0, 0, 0, 0)
    store.apply(Release("a"))
    assert store.level("usd|rolling") == (0, 0, 0, 0)


def test_a_charge_older_than_the_rolling_window_only_ends_the_hold(store: Store) -> None:
    store.apply(reserve("a", rolling(400)))
    charge = Charge("usd|rolling", 300, sub_window_end(store.now, HOUR), rolling_ms=HOUR)
    store.apply(Renew("p1", 3 * HOUR, ("a",)))
    store.pass_ms(2 * HOUR)
    store.apply(Settle("a", 3, store.now, (charge,)))
    assert store.level("usd|rolling") == (0, 0, 0, 0)


def test_a_bucket_expires_two_days_after_its_window(store: Store) -> None:
    store.apply(reserve("a", hold(window_start=NOW, window_end=NOW + HOUR)))
    store.apply(settle("b", 70, window_end=NOW + HOUR))
    store.pass_ms(HOUR + 48 * HOUR)
    assert store.level() == (0, 0, 0, 0)
    store.apply(settle("a", 70, window_end=NOW + HOUR))
    assert "usd|day" not in store.book.balances


def test_a_threshold_is_told_once_by_the_first_reserve_that_sees_it(store: Store) -> None:
    watched = hold(1, alerts=(500, 800, 1_000))
    store.apply(settle("a", 850))
    assert store.apply(reserve("b", hold(1, name="other"), watched)).crossed == ((1, 500), (1, 800))
    assert store.apply(reserve("c", watched)).crossed == ()
    store.apply(settle("d", 200))
    refused = store.apply(reserve("e", watched))
    assert (refused.why, refused.crossed) == ("spent", ((0, 1_000),))
    assert store.apply(reserve("f", watched)).crossed == ()
