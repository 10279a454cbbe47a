"""Calls while the quota store does not answer: what each rule says to them, and what the store hears afterwards."""

from __future__ import annotations

import pytest

from llmguard.core.moves import Begin, Release, Settle, Trip
from llmguard.core.outage import Allowance, OutageTerms, WhenStoreDown
from llmguard.core.records import HoldRecord, SentRecord, SettleRecord, VoidRecord
from llmguard.core.rules import BudgetRule, LimitRule
from llmguard.core.runaway import TaskPolicy
from tests.support.runaway import MICRO, Calls, caller, execution

ESTIMATE = 110 * MICRO
"""Ten counted tokens of the prompt, and the hundred that the caller named."""


def rule(when: WhenStoreDown = "local") -> BudgetRule:
    return BudgetRule("team", {"team": "*"}, 10**9, "usd", "total", when_store_down=when)


def away(*rules: BudgetRule, **terms: int) -> Calls:
    calls = Calls(rules or (rule(),), allowance=Allowance(OutageTerms(**terms)))
    calls.store_away = True
    return calls


def test_local_lets_calls_go_on_half_a_dollar_and_thirty_a_minute() -> None:
    calls = away()
    assert [calls.call(caller()) for _ in range(31)] == ["ok"] * 30 + ["quota_unavailable"]
    calls.now += 60_000
    assert calls.call(caller()) == "ok"
    dear = away(money_nano=3 * ESTIMATE)
    assert [dear.call(caller()) for _ in range(4)] == ["ok"] * 3 + ["quota_unavailable"]


def test_what_was_spent_is_on_record_and_the_store_hears_of_it_by_rid() -> None:
    calls = away()
    for _ in range(3):
        calls.call(caller(), tokens=50)
    assert [type(record) for record in calls.records] == [HoldRecord, SentRecord, SettleRecord] * 3
    assert [type(move) for move in calls.owed] == [Settle] * 3
    calls.comes_back()
    bucket = calls.store.book.balances["usd|total|0|team=growth"]
    assert (bucket.settled, bucket.held, bucket.exposure) == (150 * MICRO, 0, 0)
    assert calls.call(caller(), tokens=50) == "ok"
    assert bucket.settled == 200 * MICRO


def test_a_refusal_says_what_is_used_up_and_leaves_nothing_behind() -> None:
    calls = away(money_nano=ESTIMATE - 1)
    x, refusal = calls.open(caller())
    calls.close(x)
    assert (refusal.code, refusal.status, refusal.retry_after) == ("quota_unavailable", 503, 5)
    assert "this process has spent what it may on its own" in refusal.message
    assert [type(record) for record in calls.records] == [HoldRecord, VoidRecord]
    assert [type(move) for move in calls.owed] == [Release]


def test_deny_refuses_at_once_and_allow_counts_nothing() -> None:
    assert [away(rule("deny")).call(caller())] == ["quota_unavailable"]
    free = away(rule("allow"), calls=1)
    assert {free.call(caller()) for _ in range(5)} == {"ok"}
    assert free.allowance.outage.since == 0


def test_the_strictest_of_all_rules_of_a_call_holds() -> None:
    limit = LimitRule("rpm", {"team": "*"}, "rate", 600, 60_000, when_store_down="deny")
    calls = Calls((rule("allow"),), (limit,))
    calls.store_away = True
    assert calls.call(caller()) == "quota_unavailable"
    same = away(rule("allow"), BudgetRule("too", {"team": "growth"}, 1, "usd", "total", when_store_down="deny"))
    assert same.call(caller()) == "quota_unavailable"


def test_a_call_that_no_rule_counts_needs_no_store() -> None:
    calls = Calls()
    calls.store_away = True
    assert {calls.call(caller()) for _ in range(50)} == {"ok"}
    assert calls.asked == []


def test_a_silent_store_is_asked_twice_a_second() -> None:
    calls = away()
    for _ in range(5):
        calls.call(caller())
    assert len(calls.asked) == 1
    calls.now += 500
    calls.call(caller())
    assert len(calls.asked) == 2


def test_a_store_that_is_cold_is_away_too() -> None:
    calls = Calls((rule(),), allowance=Allowance(OutageTerms(calls=2)))
    calls.store.apply([Begin(60_000, rebuild=True)])
    assert [calls.call(caller()) for _ in range(3)] == ["ok", "ok", "quota_unavailable"]


def test_the_allowance_is_whole_again_after_the_store_was_back() -> None:
    calls = away(calls=1)
    assert [calls.call(caller()) for _ in range(2)] == ["ok", "quota_unavailable"]
    calls.comes_back()
    for wait, again in ((500, "quota_unavailable"), (30_000, "ok")):
        calls.now += wait
        assert calls.call(caller()) == "ok"
        calls.store_away = True
        assert calls.call(caller()) == again
        calls.store_away = False


def test_tasks_wait_after_a_quarter_of_an_hour() -> None:
    calls = away()
    assert calls.call(caller(execution())) == "ok"
    calls.now += 15 * 60_000
    assert calls.call(caller(execution())) == "quota_unavailable"
    assert calls.call(caller()) == "ok"


@pytest.mark.parametrize(("when", "answer"), [("deny", "quota_unavailable"), ("local", "ok"), ("allow", "ok")])
def test_a_task_says_itself_what_holds_for_it(when: WhenStoreDown, answer: str) -> None:
    calls = Calls()
    calls.store_away = True
    assert calls.call(caller(execution(TaskPolicy(on_unavailable=when)))) == answer
    bare = TaskPolicy(on_unavailable=when, budget=None, tree_budget=None, max_tree_calls=None)
    assert calls.call(caller(execution(bare))) == answer


def test_rules_that_only_warn_stop_nobody() -> None:
    calls = Calls(allowance=Allowance(OutageTerms(calls=0)))
    calls.store_away = True
    warned = execution(TaskPolicy(mode="warn", enforced=frozenset()))
    assert [calls.call(who) for who in (caller(warned), caller(tree_id="request-1"))] == ["ok", "ok"]


def test_a_task_that_runs_away_meanwhile_is_stopped_and_the_trip_reaches_the_store_later() -> None:
    calls = away()
    who = caller(execution(TaskPolicy(max_calls=2)))
    assert [calls.call(who) for _ in range(4)] == ["ok", "ok", "runaway_tripped", "runaway_tripped"]
    assert calls.told() == [("tripped", "max_calls", 2, 3)]
    assert Trip in [type(move) for move in calls.owed]
    calls.comes_back()
    assert calls.standing("task:t1:0").until is not None
