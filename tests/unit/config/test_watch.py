"""Alerts, thresholds, the runaway section and the gateway, as the rooms below take them."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.config import Config, load
from llmguard.config.units import Often
from llmguard.config.written import written
from llmguard.core.buckets import Planner
from llmguard.core.rules import BudgetRule

BUDGET = {"scope": {}, "window": "day"}


def loaded(**sections: Any) -> Config:
    return load({"providers": {"sandbox": {"dialect": "sandbox"}}} | sections, {})


def thresholds(config: Config) -> dict[str, tuple[int, ...]]:
    return {rule.name: rule.alerts for rule in config.budget_rules}


def test_thresholds_are_amounts_in_the_budget_s_unit_ascending() -> None:
    rule = BudgetRule("b", {}, 50_000_000_001, "usd", "day", alert_ppm=(1_000_000, 500_000, 800_000, 500_000))
    assert rule.alerts == (25_000_000_000, 40_000_000_000, 50_000_000_001)


def test_budgets_alert_where_they_say_or_where_somebody_listens() -> None:
    budgets = [
        {"name": "own", "limit": "$50", "alert_at": ["90%", "50%"], **BUDGET},
        {"name": "none", "limit": "$50", "alert_at": [], **BUDGET},
        {"name": "usual", "limit": "2M tokens", **BUDGET},
    ]
    quiet = thresholds(loaded(budgets=budgets))
    assert quiet == {
        "own": (25 * 10**9, 45 * 10**9),
        "none": (),
        "usual": (),
        "unattributed-team": (),
        "unattributed-feature": (),
    }
    assert thresholds(loaded(budgets=budgets, alerts=[{"url": "https://h.example", "on": "trip"}])) == quiet
    heard = thresholds(loaded(budgets=budgets, alerts=[{"url": "https://h.example"}]))
    assert heard == quiet | {
        "usual": (1_600_000, 2_000_000),
        "unattributed-team": (8 * 10**8, 10**9),
        "unattributed-feature": (8 * 10**8, 10**9),
    }


def test_the_store_hears_of_thresholds() -> None:
    config = loaded(budgets=[{"name": "own", "limit": "$50", "alert_at": ["50%"], **BUDGET}])
    values = ("default", "t", "e", "f", "k", "u", "m", "p", "", "")
    plan = Planner(config.budget_rules, ()).plan(values, 1_790_000_100_000)
    assert [bucket.alerts for bucket in plan.buckets] == [(25 * 10**9,)]


def test_an_alert_hears_everything_unless_told_and_its_address_is_not_shown() -> None:
    config = loaded(alerts=[{"url": "https://h.example/T0KEN"}, {"url": "https://h.example", "on": ["drift"]}])
    assert [alert.on for alert in config.alerts] == [("budget", "trip", "drift"), ("drift",)]
    assert config.alerts[0].url.get_secret_value() == "https://h.example/T0KEN"
    assert "T0KEN" not in repr(config) + str(written(config))


def test_the_runaway_section_warns_by_default() -> None:
    section = loaded().runaway
    assert (section.mode, section.identical_prompts) == ("warn", Often(20, 600_000))
    assert written(section)["identical_prompts"] == "20/10m"
    assert loaded(runaway={"identical_prompts": "5/90s"}).runaway.identical_prompts == Often(5, 90_000)


@pytest.mark.parametrize("origin", ["https://llm.corp.example", "http://gateway:8080", "https://h.example:8443/"])
def test_a_gateway_is_an_origin(origin: str) -> None:
    assert loaded(gateway=origin).gateway == origin
