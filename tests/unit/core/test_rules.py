"""The frozen rules."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from llmguard.core.rules import BudgetRule, LimitRule


def test_ceiling_is_the_limit_with_its_overshoot_rounded_down() -> None:
    rule = BudgetRule("b", {"team": "*"}, 1_000_000_007, "usd", "hour")
    assert rule.ceiling == 1_100_000_007
    assert BudgetRule("b", {}, 50, "tokens", "total", overshoot_ppm=0).ceiling == 50


def test_rules_are_frozen_and_hashable() -> None:
    budget = BudgetRule("b", {"team": "*"}, 1, "usd", "hour")
    limit = LimitRule("l", {"key": "*"}, "rate", 600, 60_000)
    assert len({budget, budget, limit}) == 2
    with pytest.raises(FrozenInstanceError):
        budget.limit = 2  # type: ignore[misc]
