"""The runaway guard's stage: calls of one execution, of a tree, of a feature, and what they cost."""

from __future__ import annotations

import pytest

from llmguard.core.decision import Admit
from llmguard.core.entries import entry
from llmguard.core.moves import Reserve, Trip, Untrip
from llmguard.core.runaway import SAFE_RULES, USD, Execution, TaskPolicy
from llmguard.core.runs import Leave
from llmguard.stages.runaway import RunawayPolicy
from tests.support.runaway import MICRO, NOW, Calls, caller, execution

SILENT = {"budget": None, "tree_budget": None, "max_tree_calls": None}


@pytest.fixture
def calls() -> Calls:
    return Calls()


# ---------------------------------------------------------------------- one execution


def test_a_body_that_calls_for_ever_is_stopped_at_its_limit_and_told_of_once(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(max_calls=3)))
    assert [calls.call(who) for _ in range(6)] == ["ok"] * 3 + ["runaway_tripped"] * 3
    assert calls.told() == [("tripped", "max_calls", 3, 4)]
    assert calls.standing("task:t1:0").until is not None


def test_the_refusal_says_what_stopped_whom_and_how_to_lift_it(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(max_calls=1)))
    calls.call(who)
    x, refusal = calls.open(who)
    calls.end(x)
    assert (refusal.code, refusal.status, refusal.should_retry) == ("runaway_tripped", 403, False)
    assert (refusal.rule, refusal.limit, refusal.spent, refusal.unit) == ("max_calls", 1, 2, "requests")
    assert refusal.scope == {"feature": "summaries", "task": "t1", "tree": "root"}
    assert refusal.message == (
        "the runaway guard has stopped task t1: max_calls reached 1 calls; once it is mended, lift this with "
        "`llmguard trips reset task:t1:0`"
    )


def test_a_tripped_execution_asks_nothing_more_of_the_store(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(max_calls=1)))
    for _ in range(5):
        calls.call(who)
    assert [type(move) for move in calls.asked] == [Reserve, Trip]


def test_the_same_prompt_again_and_again_is_stopped(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(identical_prompts=2)))
    answers = [calls.call(who, body) for body in (b"a", b"b", b"a", b"b", b"a")]
    assert answers == ["ok", "ok", "ok", "ok", "runaway_tripped"]
    assert calls.told() == [("tripped", "identical_prompts", 2, 3)]


def test_samples_that_are_meant_multiply_the_limit(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(identical_prompts=2)), samples=5)
    assert [calls.call(who, b"a") for _ in range(11)] == ["ok"] * 10 + ["runaway_tripped"]


def test_calls_that_were_never_sent_do_not_count(calls: Calls) -> None:
    work = execution(TaskPolicy(max_calls=2, identical_prompts=2, **SILENT))
    for _ in range(5):
        x, decision = calls.open(caller(work), b"same")
        assert isinstance(decision, Admit)
        calls.close(x)
    assert (work.calls, work.prompts) == (0, {})


def test_trying_again_what_failed_and_was_not_billed_is_no_runaway(calls: Calls) -> None:
    work = execution(TaskPolicy(max_calls=2, identical_prompts=2))
    assert {calls.call(caller(work), b"same", status=429) for _ in range(50)} == {"ok"}
    assert (work.calls, work.spent_nano) == (0, 0)
    assert [calls.call(caller(work), b"same") for _ in range(3)] == ["ok", "ok", "runaway_tripped"]


def test_what_calls_cost_is_added_up_for_the_execution(calls: Calls) -> None:
    work = execution()
    for tokens in (50, 70):
        calls.call(caller(work), tokens=tokens)
    assert (work.calls, work.spent_nano) == (2, 120 * MICRO)


def test_an_undecorated_task_is_stopped_for_repeating_itself_and_warned_about_the_rest(calls: Calls) -> None:
    policy = TaskPolicy(max_calls=3, identical_prompts=4, enforced=SAFE_RULES)
    who = caller(execution(policy))
    assert [calls.call(who) for _ in range(5)] == ["ok"] * 5
    assert calls.told() == [("warned", "max_calls", 3, 4)]
    assert [calls.call(who, b"x") for _ in range(5)][-1] == "runaway_tripped"
    assert calls.told()[1:] == [("tripped", "identical_prompts", 4, 5)]


def test_a_task_in_mode_warn_is_never_stopped_and_one_that_is_off_not_even_watched(calls: Calls) -> None:
    warned = caller(execution(TaskPolicy(max_calls=1, mode="warn", enforced=frozenset())))
    off = caller(execution(TaskPolicy(max_calls=1, mode="off", enforced=frozenset()), task_id="t2"))
    assert {calls.call(who) for who in (warned, off) for _ in range(5)} == {"ok"}
    assert calls.told() == [("warned", "max_calls", 1, 2)]


def test_calls_that_cost_nothing_are_not_counted(calls: Calls) -> None:
    work = execution(TaskPolicy(max_calls=1))
    assert {calls.call(caller(work), b"", op="object", metered=False, tokens=0) for _ in range(5)} == {"ok"}
    assert work.calls == 0


# ---------------------------------------------------------------------- trips of others


@pytest.mark.parametrize("name", ["task:t1:0", "tree:root", "name:app.summarise"])
def test_a_trip_that_somebody_else_set_stops_the_next_call(calls: Calls, name: str) -> None:
    calls.store.apply([Trip(name)])
    work = execution()
    assert [calls.call(caller(work)) for _ in range(3)] == ["runaway_tripped"] * 3
    assert (len(calls.asked), calls.notes, work.trip and work.trip.name) == (1, [], name)


def test_a_reset_lets_the_next_run_begin_anew(calls: Calls) -> None:
    policy = TaskPolicy(max_calls=1)
    first = caller(execution(policy))
    assert [calls.call(first) for _ in range(2)] == ["ok", "runaway_tripped"]
    assert calls.call(caller(execution(policy))) == "runaway_tripped"
    calls.store.apply([Untrip("task:t1:0")])
    calls.now += 2_000  # a trip is believed for so long without asking again
    assert calls.call(caller(execution(policy))) == "ok"


# ---------------------------------------------------------------------- trees


def test_calls_are_counted_over_all_tasks_of_a_tree(calls: Calls) -> None:
    policy = TaskPolicy(max_tree_calls=3)
    works = [execution(policy, task_id=f"t{number}") for number in range(5)]
    assert [calls.call(caller(work)) for work in works] == ["ok"] * 3 + ["runaway_tripped"] * 2
    assert calls.told() == [("tripped", "max_tree_calls", 3, 4)]
    assert calls.call(caller(execution(policy, tree_id="other"))) == "ok"


@pytest.mark.parametrize("policy", [TaskPolicy(max_tree_calls=3), TaskPolicy(tree_budget=10_000 * MICRO)])
def test_what_a_task_has_left_running_stays_within_what_its_tree_may_do(calls: Calls, policy: TaskPolicy) -> None:
    work = execution(policy, ended=True)
    who = caller(work).living()
    assert (who.execution, who.task_id) == (None, None)
    assert [calls.call(who, tokens=4_000) for _ in range(5)] == ["ok"] * 3 + ["runaway_tripped"] * 2
    assert calls.standing("tree:root").until is not None
    assert [kind for kind, *_ in calls.told()].count("tripped") == 1


def test_a_tree_without_tasks_is_warned_about_once_and_stopped_where_it_is_enforced() -> None:
    for mode, last in (("warn", "ok"), ("enforce", "runaway_tripped")):
        calls = Calls(runaway=RunawayPolicy(mode=mode, tree_calls=2))  # type: ignore[arg-type]
        who = caller(task_id="r1", tree_id="request-1")
        assert [calls.call(who) for _ in range(4)] == ["ok", "ok", last, last]
        kind = "warned" if mode == "warn" else "tripped"
        assert calls.told() == [(kind, "runaway.tree_calls", 2, 3)]


def test_a_tree_may_cost_so_much() -> None:
    calls = Calls(runaway=RunawayPolicy(mode="enforce", tree_budget=10_000 * MICRO))
    who = caller(tree_id="request-1")
    assert [calls.call(who, tokens=4_000) for _ in range(5)] == ["ok"] * 3 + ["runaway_tripped"] * 2
    assert calls.told() == [("tripped", "runaway.tree_budget", 10_000 * MICRO, 12_000 * MICRO)]


# ---------------------------------------------------------------------- money


def test_a_task_that_has_spent_its_budget_is_stopped(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(budget=10_000 * MICRO, chosen=frozenset({"budget"}))))
    assert [calls.call(who, tokens=5_000) for _ in range(3)] == ["ok", "ok", "runaway_tripped"]
    assert calls.told() == [("tripped", "budget", 10_000 * MICRO, 10_000 * MICRO)]


def test_the_budget_is_the_task_s_and_not_the_run_s(calls: Calls) -> None:
    policy = TaskPolicy(budget=10_000 * MICRO)
    for _ in range(2):
        calls.call(caller(execution(policy)), tokens=5_000)
    assert calls.call(caller(execution(policy))) == "runaway_tripped"


def test_a_default_budget_warns_at_half_and_names_the_option_once(calls: Calls) -> None:
    who = caller(execution(TaskPolicy(budget=10_000 * MICRO)))
    for _ in range(4):
        calls.call(who, tokens=2_000)
    assert calls.told() == [("warned", "budget", 10_000 * MICRO, 5_000 * MICRO)]
    assert calls.notes[0].advice == "set budget to what it may cost; at the limit it is stopped"  # type: ignore[union-attr]


def test_a_budget_that_is_not_enforced_warns_at_its_end(calls: Calls) -> None:
    policy = TaskPolicy(budget=10_000 * MICRO, enforced=SAFE_RULES, chosen=frozenset({"budget"}))
    who = caller(execution(policy))
    assert [calls.call(who, tokens=6_000) for _ in range(4)] == ["ok"] * 4
    assert calls.told() == [("warned", "budget", 10_000 * MICRO, 10_000 * MICRO)]


def test_two_dollars_are_enough_for_twenty_parallel_calls_that_name_no_maximum() -> None:
    calls = Calls(max_output=128_000)
    who = caller(execution(TaskPolicy(budget=2 * USD)))
    opened = [calls.open(who, max_tokens=None, prompt_bytes=2_000) for _ in range(20)]
    assert [type(decision) for _, decision in opened] == [Admit] * 20
    for x, _ in opened:
        calls.end(x, tokens=1_000)
    assert calls.call(who) == "ok"


def test_buckets_of_tasks_and_trees_are_forgotten_some_day(calls: Calls) -> None:
    calls.call(caller(execution()))
    ends = {name: balance.expires for name, balance in calls.store.book.balances.items()}
    assert set(ends) == {"usd|total|0|task=t1", "usd|total|0|tree=root"}
    assert all(NOW < expires < NOW + 10 * 86_400_000 for expires in ends.values())


# ---------------------------------------------------------------------- features


def test_identical_prompts_of_a_feature_warn_once_a_window() -> None:
    calls = Calls(runaway=RunawayPolicy(identical_prompts=(3, 600_000)))
    assert {calls.call(caller(), b"same") for _ in range(8)} == {"ok"}
    assert calls.told() == [("warned", "runaway.identical_prompts", 3, 4)]
    calls.now += 600_000
    assert {calls.call(caller(), b"same") for _ in range(8)} == {"ok"}
    assert len(calls.notes) == 2


def test_identical_prompts_stop_the_feature_where_that_is_enforced() -> None:
    calls = Calls(runaway=RunawayPolicy(mode="enforce", identical_prompts=(3, 600_000)))
    assert [calls.call(caller(), b"same") for _ in range(5)] == ["ok"] * 3 + ["runaway_tripped"] * 2
    assert calls.call(caller(), b"another") == "runaway_tripped"
    assert calls.call(caller(feature="other"), b"same") == "ok"
    calls.now += 600_000
    assert calls.call(caller(), b"same") == "ok"
    assert calls.told() == [("tripped", "runaway.identical_prompts", 3, 4)]


def test_prompts_that_differ_in_numbers_only_warn_and_never_stop() -> None:
    calls = Calls(runaway=RunawayPolicy(mode="enforce", similar_prompts=(20, 600_000)))
    assert {calls.call(caller(), b"order %d" % number) for number in range(100, 140)} == {"ok"}
    assert calls.told() == [("warned", "runaway.similar_prompts", 20, 24)]


def test_a_feature_that_calls_ten_times_as_often_as_ever_is_told_of() -> None:
    calls = Calls(runaway=RunawayPolicy(similar_prompts=(10**6, 600_000), velocity=10))
    for _ in range(6):
        for _ in range(12):
            calls.call(caller())
        calls.now += 600_000
    assert calls.notes == []
    for _ in range(130):
        calls.call(caller())
    assert [told[:3] for told in calls.told()] == [("warned", "runaway.velocity", 120)]


def test_tasks_that_send_the_same_prompt_are_only_warned_about() -> None:
    calls = Calls(runaway=RunawayPolicy(mode="enforce", identical_prompts=(3, 600_000)))
    works = [execution(task_id=f"t{number}", tree_id=f"r{number}") for number in range(6)]
    assert {calls.call(caller(work), b"same") for work in works} == {"ok"}
    assert calls.told() == [("warned", "runaway.identical_prompts", 3, 4)]


def test_nothing_is_watched_where_the_section_is_off() -> None:
    calls = Calls(runaway=RunawayPolicy(mode="off", identical_prompts=(1, 600_000), tree_calls=1))
    assert {calls.call(caller(tree_id="r"), b"same") for _ in range(5)} == {"ok"}
    assert (calls.notes, calls.asked) == ([], [])


# ---------------------------------------------------------------------- entering with the first call


def entering(task_id: str = "t1") -> Execution:
    policy = TaskPolicy(enforced=SAFE_RULES)
    work = execution(policy, task_id)
    work.entrance = entry(work, 60_000, max_paid=2)
    return work


def test_the_first_call_of_an_undecorated_task_enters_its_run(calls: Calls) -> None:
    work = entering()
    assert [calls.call(caller(work)) for _ in range(2)] == ["ok", "ok"]
    assert [type(move).__name__ for move in calls.asked] == ["Enter", "Reserve", "Reserve"]
    assert (work.entered, work.entrance, calls.standing("task:t1:0").started) == (True, None, 1)


def test_the_first_call_of_a_task_that_was_paid_for_too_often_is_refused(calls: Calls) -> None:
    for run in ("a", "b"):
        calls.store.apply([Leave("task:t1:0", run, "name:app.summarise", False, True, False)])
    work = entering()
    assert [calls.call(caller(work)) for _ in range(2)] == ["runaway_tripped"] * 2
    assert calls.told() == [("tripped", "max_paid_attempts", 2, 2)]
    assert calls.standing("task:t1:0").until is not None
