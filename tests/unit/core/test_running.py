"""Runs of a task: entering, paying, leaving, and what keeps a run from starting."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.core.executions import REMEMBERED
from llmguard.core.moves import Begin, Open, Renew, Trip, Untrip
from llmguard.core.runs import KEEP_RUNS_MS, Enter, Entered, Leave, Paid, Peek, Standing, Tally
from tests.support.book import LEASE, NOW, Store, reserve

KEY, NAME = "task:1", "name:app.summarise"


@pytest.fixture
def store() -> Store:
    return Store()


def enter(store: Store, run: str, **fields: Any) -> Entered:
    answer = store.apply(Enter(fields.pop("key", KEY), run, fields.pop("name", NAME), LEASE, **fields))
    assert isinstance(answer, Entered)
    return answer


def leave(store: Store, run: str, *, ok: bool = False, paid: bool = True, done: bool = False) -> bool:
    return bool(store.apply(Leave(KEY, run, NAME, ok, paid, done)).changed)


def standing(store: Store, name: str = KEY) -> Standing:
    return store.apply(Peek((name,))).standings[0]  # type: ignore[no-any-return]


def test_a_run_enters_and_takes_its_lease(store: Store) -> None:
    answer = enter(store, "r1")
    assert (answer.verdict, answer.now) == ("go", NOW)
    assert (answer.paid, answer.started, answer.lost, answer.running) == (0, 1, 0, 1)


def test_the_same_run_is_counted_once(store: Store) -> None:
    enter(store, "r1", tallies=(Tally("tree:t", "tasks", 9, LEASE),))
    again = enter(store, "r1", tallies=(Tally("tree:t", "tasks", 9, LEASE),))
    assert (again.verdict, again.started, again.tallied) == ("go", 1, (1,))


def test_a_second_delivery_beside_a_live_run_is_told_so(store: Store) -> None:
    enter(store, "r1")
    second = enter(store, "r2")
    assert (second.verdict, second.started, second.running) == ("running", 1, 1)
    assert enter(store, "r3", warn_only=("running",)).warned == ("running",)


def test_paid_attempts_without_success_are_counted_and_limited(store: Store) -> None:
    for run in ("r1", "r2"):
        assert enter(store, run, max_paid=2).verdict == "go"
        assert leave(store, run)
    assert enter(store, "r3", max_paid=2).verdict == "paid"
    assert standing(store).paid == 2


@pytest.mark.parametrize(("ok", "paid"), [(True, True), (False, False), (True, False)])
def test_success_and_what_cost_nothing_are_no_paid_attempts(store: Store, ok: bool, paid: bool) -> None:
    enter(store, "r1")
    leave(store, "r1", ok=ok, paid=paid)
    assert standing(store).paid == 0


@pytest.mark.parametrize(("ok", "paid"), [(True, 0), (False, 3)])
def test_an_id_that_is_used_again_begins_anew_only_after_a_success(store: Store, ok: bool, paid: int) -> None:
    for run in ("r1", "r2"):
        enter(store, run)
        leave(store, run)
    enter(store, "r3")
    leave(store, "r3", ok=ok, done=True)
    assert enter(store, "r4", warn_only=("done",)).paid == paid


def test_leaving_twice_counts_once(store: Store) -> None:
    enter(store, "r1")
    assert [leave(store, "r1"), leave(store, "r1")] == [True, False]
    assert standing(store).paid == 1


def test_a_run_that_was_killed_is_lost_when_its_lease_is_over(store: Store) -> None:
    enter(store, "r1")
    store.pass_ms(LEASE - 1)
    assert standing(store).lost == 0
    store.pass_ms(1)
    assert (standing(store).lost, standing(store).running) == (1, 0)


def test_more_lost_runs_than_allowed_stop_the_next(store: Store) -> None:
    verdicts = []
    for run in ("r1", "r2", "r3", "r4"):
        verdicts.append(enter(store, run, max_lost=2).verdict)
        store.pass_ms(LEASE)
    assert verdicts == ["go", "go", "go", "lost"]


def test_a_payment_told_at_once_outlives_the_process(store: Store) -> None:
    enter(store, "r1")
    assert [store.apply(Paid(KEY, "r1")).changed for _ in range(2)] == [True, False]
    assert standing(store).paid == 0
    store.pass_ms(LEASE)
    assert standing(store).paid == 1


def test_a_renewed_run_lives_and_a_slow_one_comes_back(store: Store) -> None:
    enter(store, "r1")
    store.pass_ms(LEASE // 2)
    store.apply(Renew("p", LEASE, (), ((KEY, "r1"),)))
    store.pass_ms(LEASE - 1)
    assert standing(store).running == 1
    store.pass_ms(10 * LEASE)
    assert standing(store).lost == 1
    store.apply(Renew("p", LEASE, (), ((KEY, "r1"),)))
    assert (standing(store).lost, standing(store).running) == (0, 1)


def test_a_run_that_the_store_forgot_is_entered_by_its_renewal_but_not_after_its_end(store: Store) -> None:
    store.apply(Renew("p", LEASE, (), ((KEY, "r1"),)))
    assert (standing(store).started, standing(store).running) == (1, 1)
    leave(store, "r1")
    store.apply(Renew("p", LEASE, (), ((KEY, "r1"),)))
    assert standing(store).running == 0


def test_a_finished_key_turns_duplicates_away_and_hears_nothing_more(store: Store) -> None:
    enter(store, "r1")
    leave(store, "r1", ok=True, done=True)
    assert enter(store, "r2").verdict == "done"
    assert leave(store, "r2") is False
    assert store.apply(Paid(KEY, "r2")).changed is False
    assert enter(store, "r2", warn_only=("done",)).verdict == "go"


def test_an_end_counts_though_the_store_was_away_at_the_beginning(store: Store) -> None:
    assert leave(store, "r1")
    assert (standing(store).started, standing(store).paid) == (1, 1)


def test_lost_runs_beyond_those_remembered_one_by_one_still_count(store: Store) -> None:
    for number in range(REMEMBERED + 5):
        enter(store, f"r{number}")
        store.apply(Paid(KEY, f"r{number}"))
        store.pass_ms(LEASE)
    assert (standing(store).lost, standing(store).paid) == (REMEMBERED + 5, REMEMBERED + 5)
    assert len(store.book.runs[KEY].runs) == REMEMBERED


def test_runs_are_forgotten_a_day_after_the_last(store: Store) -> None:
    enter(store, "r1")
    leave(store, "r1")
    store.pass_ms(KEEP_RUNS_MS)
    assert standing(store).paid == 0


def test_what_speaks_first_is_told_and_the_rest_is_not_counted(store: Store) -> None:
    store.apply(Trip("tree:t"))
    enter(store, "r0", key="task:2")
    answer = enter(store, "r1", key="task:2", trips=("task:2", "tree:t"), tallies=(Tally("tree:t", "tasks", 1, LEASE),))
    assert (answer.verdict, answer.index, answer.tallied) == ("tripped", 1, ())
    assert standing(store, "tree:t").counts == ()


def test_more_tasks_in_a_tree_than_allowed(store: Store) -> None:
    tasks = Tally("tree:t", "tasks", 2, LEASE)
    answers = [enter(store, "r", key=f"task:{number}", tallies=(tasks,)) for number in range(3)]
    assert [answer.verdict for answer in answers] == ["go", "go", "tally"]
    assert (answers[1].tallied, answers[2].index) == ((2,), 0)


def test_a_lifted_trip_gives_a_fresh_start(store: Store) -> None:
    enter(store, "r1")
    leave(store, "r1")
    store.apply(reserve("a", tallies=(Tally(KEY, "calls", 1, LEASE),)))
    store.apply(Trip(KEY, NOW + 5_000))
    before = standing(store)
    assert (before.until, before.counts, before.paid) == (NOW + 5_000, (("calls", 1),), 1)
    assert store.apply(Untrip(KEY)).changed is True
    assert standing(store) == Standing(None, (), 0, 0, 0, 0, False, None, 0, 0)


def test_runs_are_counted_while_the_store_is_cold_and_outlive_its_loading(store: Store) -> None:
    enter(store, "r1")
    store.apply(Paid(KEY, "r1"))
    turn = store.apply(Begin(LEASE, rebuild=True))
    assert reserve_is_cold(store)
    leave(store, "r1")
    assert enter(store, "r2", max_paid=1).verdict == "paid"
    store.apply(Open(turn.fence, 0))
    assert enter(store, "r2", max_paid=1).verdict == "paid"


def reserve_is_cold(store: Store) -> bool:
    return bool(store.apply(reserve("a")).why == "cold")
