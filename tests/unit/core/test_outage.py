"""What a process may do on its own while the store is away."""

from __future__ import annotations

import pytest

from llmguard.core.outage import Allowance, Outage, OutageTerms, strictest

NOW = 1_800_000_000_000
TERMS = OutageTerms(money_nano=1_000, calls=3, period_ms=60_000, background_ms=900_000)


@pytest.mark.parametrize(
    ("policies", "found"),
    [
        ([], "allow"),
        (["allow"], "allow"),
        (["allow", "local"], "local"),
        (["local", "deny", "allow"], "deny"),
    ],
)
def test_the_strictest_rule_speaks(policies: list[str], found: str) -> None:
    assert strictest(policies) == found  # type: ignore[arg-type]


def test_money_is_for_the_whole_outage() -> None:
    outage = Outage()
    assert outage.take(TERMS, 600, NOW, background=False) is None
    assert outage.take(TERMS, 401, NOW + 10**8, background=False) == "money"
    assert outage.take(TERMS, 400, NOW + 10**8, background=False) is None
    assert (outage.since, outage.spent) == (NOW, 1_000)


def test_calls_are_for_each_minute() -> None:
    outage = Outage()
    assert [outage.take(TERMS, 1, NOW, background=False) for _ in range(4)] == [None, None, None, "calls"]
    assert outage.take(TERMS, 1, NOW + 60_000, background=False) is None
    assert outage.spent == 4


def test_tasks_wait_when_it_lasts_and_others_go_on() -> None:
    outage = Outage()
    assert outage.take(TERMS, 1, NOW, background=True) is None
    assert outage.take(TERMS, 1, NOW + 899_999, background=True) is None
    assert outage.take(TERMS, 1, NOW + 900_000, background=True) == "background"
    assert outage.take(TERMS, 1, NOW + 900_000, background=False) is None


def test_it_is_kept_as_it_was_and_nothing_else_is_taken_for_it() -> None:
    outage = Outage(NOW, 5, 6, 7)
    again = Outage.unpacked(outage.packed())
    assert (again.since, again.spent, again.period, again.calls) == (NOW, 5, 6, 7)
    assert Outage.unpacked(b"").since == 0


def test_the_next_outage_has_an_allowance_of_its_own() -> None:
    allowance = Allowance(TERMS)
    assert allowance.take(1_000, NOW, background=False) is None
    assert allowance.take(1, NOW, background=False) == "money"
    allowance.answered(NOW + 29_999)
    assert allowance.take(1, NOW, background=False) == "money"
    allowance.answered(NOW + 30_000)
    assert allowance.take(1_000, NOW + 30_000, background=False) is None


def test_a_silent_store_is_not_asked_again_for_half_a_second() -> None:
    allowance = Allowance(TERMS)
    assert not allowance.silent(NOW)
    allowance.failed(NOW)
    assert (allowance.silent(NOW + 499), allowance.silent(NOW + 500)) == (True, False)
