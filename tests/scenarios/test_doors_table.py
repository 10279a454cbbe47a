"""Every scenario at every door: what the caller hears, what the ledger says, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenarios.calls import Scenario
from tests.scenarios.doors import DOORS, Door
from tests.scenarios.judging import disagreements, judge
from tests.scenarios.playing import Run, world
from tests.scenarios.scenarios import SCENARIOS, no_meaning

PAIRS = [(door, scenario) for door in DOORS for scenario in SCENARIOS if no_meaning(door, scenario) is None]


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All that the chosen tests ask for, played once."""
    chosen = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    ]
    doors = [door for door in DOORS if any(params.get("door", door) is door for params in chosen)]
    with world(tmp_path_factory.mktemp("doors"), doors, SCENARIOS) as made:
        yield made.play()


@pytest.mark.parametrize(("door", "scenario"), PAIRS, ids=lambda at: at.name)
def test_the_same_is_heard_and_recorded(run: Run, door: Door, scenario: Scenario) -> None:
    judge(run, door, scenario)


@pytest.mark.parametrize("door", DOORS, ids=lambda at: at.name)
def test_nothing_is_left_behind(run: Run, door: Door) -> None:
    assert run.busy[door.name] == set()
    kept = run.kept[door.name]
    assert kept["held"] == 0, kept
    spent = [
        entry["cost_nano"]
        for rows in (run.rows, run.second)
        for whose, of in rows.items()
        if whose[1] == door.name
        for entry in of
    ]
    assert sum(spent) == kept["usd settled"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda at: at.name)
def test_the_entries_agree_in_every_other_column(run: Run, scenario: Scenario) -> None:
    assert disagreements(run, scenario, DOORS) == {}
