"""The breaker and the retry budget of a task name."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.core.runs import BreakerTerms, Enter, Entered, Leave, Peek, RetryTerms
from tests.support.book import LEASE, Store

NAME = "name:app.summarise"
TERMS = BreakerTerms(failures=4, ratio_ppm=800_000, cooldown_ms=900_000)
RETRIES = RetryTerms(ratio_ppm=200_000, floor=2)


@pytest.fixture
def store() -> Store:
    return Store()


def enter(store: Store, number: int, **fields: Any) -> Entered:
    answer = store.apply(Enter(f"task:{number}", f"r{number}", NAME, LEASE, **({"breaker": TERMS} | fields)))
    assert isinstance(answer, Entered)
    return answer


def leave(store: Store, number: int, *, ok: bool = False, paid: bool = True) -> None:
    store.apply(Leave(f"task:{number}", f"r{number}", NAME, ok, paid, False))


def run(store: Store, numbers: range, **end: bool) -> None:
    for number in numbers:
        assert enter(store, number).verdict == "go"
        leave(store, number, **end)


def test_a_storm_of_failures_opens_the_breaker_once(store: Store) -> None:
    run(store, range(4))
    first, second = enter(store, 10), enter(store, 11)
    assert [(x.verdict, x.opened) for x in (first, second)] == [("breaker", True), ("breaker", False)]
    assert store.apply(Peek((NAME,))).standings[0].open_until == store.now + TERMS.cooldown_ms


def test_a_ratio_below_the_terms_keeps_it_closed(store: Store) -> None:
    run(store, range(2), ok=True)
    run(store, range(10, 15))
    assert enter(store, 20).verdict == "go"
    leave(store, 20)
    run(store, range(21, 23))
    assert enter(store, 30).verdict == "breaker"


def test_failures_that_cost_nothing_open_no_breaker(store: Store) -> None:
    run(store, range(50), paid=False)
    assert enter(store, 60).verdict == "go"


def test_failures_that_lie_more_than_the_window_apart_open_no_breaker(store: Store) -> None:
    for number in range(10):
        run(store, range(number, number + 1))
        store.pass_ms(4 * 60_000)
    assert enter(store, 20).verdict == "go"


def test_one_canary_runs_after_the_cooldown_and_its_success_closes_it(store: Store) -> None:
    run(store, range(4))
    enter(store, 10)
    store.pass_ms(TERMS.cooldown_ms)
    assert [enter(store, number).verdict for number in (11, 12)] == ["go", "breaker"]
    leave(store, 11, ok=True)
    assert [enter(store, number).verdict for number in (13, 14)] == ["go", "go"]


def test_a_failing_canary_opens_it_again(store: Store) -> None:
    run(store, range(4))
    enter(store, 10)
    store.pass_ms(TERMS.cooldown_ms)
    enter(store, 11)
    leave(store, 11)
    store.pass_ms(TERMS.cooldown_ms - 1)
    assert enter(store, 12).verdict == "breaker"
    store.pass_ms(1)
    assert enter(store, 13).verdict == "go"


def test_a_canary_that_is_never_heard_of_again_makes_room_for_another(store: Store) -> None:
    run(store, range(4))
    enter(store, 10)
    store.pass_ms(TERMS.cooldown_ms)
    enter(store, 11)
    store.pass_ms(TERMS.cooldown_ms)
    assert [enter(store, number).verdict for number in (12, 13)] == ["go", "breaker"]


def test_a_breaker_that_only_warns_lets_everything_run(store: Store) -> None:
    run(store, range(4))
    answer = enter(store, 10, warn_only=("breaker",))
    assert (answer.verdict, answer.opened, answer.warned) == ("go", True, ("breaker",))


def test_retries_are_a_share_of_first_runs_and_a_few_more(store: Store) -> None:
    for number in range(10):
        enter(store, number)
    verdicts = [enter(store, number, retry=RETRIES, is_retry=True).verdict for number in range(20, 25)]
    assert verdicts == ["go", "go", "go", "go", "retry_budget"]
    assert enter(store, 30, retry=RETRIES).verdict == "go"


def test_the_retry_budget_is_full_again_after_a_minute(store: Store) -> None:
    for number in range(2):
        enter(store, number, retry=RETRIES, is_retry=True)
    assert enter(store, 2, retry=RETRIES, is_retry=True).verdict == "retry_budget"
    store.pass_ms(70_000)
    assert enter(store, 3, retry=RETRIES, is_retry=True).verdict == "go"
