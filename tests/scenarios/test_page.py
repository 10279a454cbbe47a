"""docs/doors.md shows the declared scenarios and doors, and what is declared of them."""

from __future__ import annotations

from tests.scenarios.doors import DOORS
from tests.scenarios.page import PAGE, declared, text_of
from tests.scenarios.scenarios import BY_NAME, NO_MEANING, SCENARIOS, no_meaning

TABLE = [line for line in text_of(PAGE.read_text()).splitlines() if line.startswith("|")]


def test_the_page_says_what_is_declared() -> None:
    assert text_of(PAGE.read_text()) == declared()


def test_the_table_has_every_scenario_and_every_door() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE[2:]]
    assert [row[0] for row in rows] == [scenario.name for scenario in SCENARIOS]
    assert {len(row) for row in rows} == {4 + len(DOORS)}
    assert len(SCENARIOS) == len(BY_NAME) == 30


def test_what_is_left_out_is_named_once() -> None:
    assert set(NO_MEANING) <= set(BY_NAME)
    names = {door.name for door in DOORS} | {door.kind for door in DOORS}
    assert {name for reasons in NO_MEANING.values() for name in reasons} <= names
    left_out = sum(no_meaning(door, scenario) is not None for door in DOORS for scenario in SCENARIOS)
    assert "\n".join(TABLE).count("| –") == left_out
