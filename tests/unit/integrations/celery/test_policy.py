"""Options of `llm_task`: read once, as people write them, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from celery.exceptions import ImproperlyConfigured

from llmguard.core.runaway import RULES, SAFE_RULES, Breaker, RetryBudget, TaskPolicy
from llmguard.core.runs import BreakerTerms, RetryTerms
from llmguard.integrations.celery.policy import parse_policy, undecorated


def test_the_defaults_of_a_decorated_task() -> None:
    policy = parse_policy({})
    assert policy == TaskPolicy()
    assert (policy.budget, policy.tree_budget, policy.max_runtime) == (5_000_000_000, 50_000_000_000, 1_800_000)
    assert policy.breaker == BreakerTerms(20, 800_000, 900_000)
    assert policy.retry_budget == RetryTerms(200_000, 10)
    assert policy.enforced == RULES
    assert policy.asks_first
    assert policy.chosen == frozenset()


@pytest.mark.parametrize(
    ("option", "written", "meant"),
    [
        ("team", "growth", "growth"),
        ("budget", "$0.075", 75_000_000),
        ("tree_budget", None, None),
        ("max_calls", 8, 8),
        ("max_redeliveries", 0, 0),
        ("max_runtime", 0.5, 500),
        ("max_runtime", "30m", 1_800_000),
        ("breaker", Breaker(5, 1, "30s"), BreakerTerms(5, 1_000_000, 30_000)),
        ("breaker", None, None),
        ("retry_budget", RetryBudget(0.5, floor_per_min=0), RetryTerms(500_000, 0)),
        ("duplicates", "ignore", "ignore"),
        ("on_abort", "reject", "reject"),
        ("on_unavailable", "deny", "deny"),
    ],
)
def test_sizes_as_people_write_them(option: str, written: Any, meant: Any) -> None:
    policy = parse_policy({option: written})
    assert getattr(policy, option) == meant
    assert policy.chosen == {option}


@pytest.mark.parametrize(
    ("option", "written", "said"),
    [
        ("buget", "$5", r"has no option buget; did you mean budget\?"),
        ("zzz", 1, r"has no option zzz; there are team, env"),
        ("budget", 5, r"budget is 5, an amount without a unit; write dollars, such as '\$5'"),
        ("budget", "5", "not an amount of money"),
        ("budget", "-$5", "not an amount of money"),
        ("budget", "$0", "a budget of nothing"),
        ("max_calls", -1, "max_calls is -1, out of range; write a whole number from 1"),
        ("max_calls", 0, "out of range"),
        ("max_calls", True, "not a whole number"),
        ("max_calls", "8", "not a whole number"),
        ("max_paid_attempts", 10**10, "out of range"),
        ("team", "", "not a name"),
        ("team", "a\nb", "not a name"),
        ("max_runtime", 0, "no time at all"),
        ("max_runtime", "soon", "not a length of time"),
        ("max_runtime", [], "not a length of time"),
        ("breaker", 20, "no Breaker"),
        ("breaker", Breaker(0), "failures that are not a whole number"),
        ("breaker", Breaker(5, 1.5), "ratio that is not between 0 and 1"),
        ("breaker", Breaker(5, 0.8, "0s"), "without a time to cool down"),
        ("breaker", Breaker(5, 0.8, "soon"), "not a length of time"),
        ("retry_budget", 0.2, "no RetryBudget"),
        ("retry_budget", RetryBudget(0.2, -1), "floor that is not a whole number"),
        ("duplicates", "drop", "write one of defer, ignore, run"),
        ("mode", "shadow", "write one of enforce, warn, off"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(option: str, written: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        parse_policy({option: written})
    assert str(caught.value)[-1] in ".?"


@pytest.mark.parametrize(("retries", "attempts"), [(None, 4), (0, 4), (3, 4), (4, 5), (10, 11)])
def test_attempts_follow_the_tasks_own_retries(retries: int | None, attempts: int) -> None:
    assert parse_policy({}).paid_attempts(retries) == attempts
    assert parse_policy({"max_paid_attempts": 2}).paid_attempts(retries) == 2


def test_a_mode_that_stops_nothing() -> None:
    assert parse_policy({"mode": "warn"}).enforced == frozenset()
    assert undecorated({"mode": "warn"}).enforced == frozenset()


def test_tasks_without_a_policy_enforce_what_no_healthy_task_breaks() -> None:
    policy = undecorated({})
    assert policy.enforced == SAFE_RULES == {"max_paid_attempts", "max_redeliveries", "identical_prompts"}
    assert not policy.asks_first


def test_what_an_application_chooses_for_them_is_enforced() -> None:
    policy = undecorated({"max_calls": 50, "team": "shop"})
    assert policy.enforced == SAFE_RULES | {"max_calls"}
    assert (policy.max_calls, policy.team, policy.asks_first) == (50, "shop", False)
    assert undecorated({"breaker": Breaker()}).asks_first
    assert undecorated({"duplicates": "defer"}).asks_first
