"""Says whether what came of a scenario at a door is what it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.scenarios.calls import ANY, Heard, Row, Scenario, Sees
from tests.scenarios.doors import Door
from tests.scenarios.playing import Run
from tests.scenarios.scenarios import ESTIMATED


def judge(run: Run, door: Door, scenario: Scenario) -> None:
    """Raises AssertionError, or what went wrong on the way."""
    whose = (scenario.name, door.name)
    if whose in run.failed:
        raise run.failed[whose]
    heard = run.heard[whose]
    assert len(heard) == len(scenario.steps)
    for step, said in zip(scenario.steps, heard, strict=True):
        if step.leaves is None:
            _check_heard(said, step.wanted(door.kind))
    assert run.forwarded.get(whose, 0) == scenario.forwarded, "requests that reached the provider"
    check_rows(run.rows.get(whose, ()), scenario.wanted_rows(door.kind))
    check_rows(run.second.get(whose, ()), scenario.second)


def _check_heard(heard: Heard, wanted: Sees) -> None:
    told = (heard.status, heard.code, heard.body[:500])
    assert (heard.status, heard.code) == (wanted.status, wanted.code), told
    if wanted.body is not None:
        assert heard.body == wanted.body, told
    for piece in wanted.holds:
        assert piece in heard.body, (piece, heard.body[-500:])
    for name, value in wanted.headers.items():
        said = heard.headers.get(name)
        assert said is not None and value in (ANY, said), (name, said, value)
    for name in wanted.lacks:
        assert name not in heard.headers, (name, heard.headers[name])


def check_rows(found: Sequence[Mapping[str, Any]], wanted: Sequence[Row]) -> None:
    """The entries of a caller, and nothing else of its."""
    assert len(found) == len(wanted), [(e["status"], e["cost_nano"], e["interrupted"]) for e in found]
    for entry, expected in zip(found, wanted, strict=True):
        exact = {name: value for name, value in expected.items() if value != ESTIMATED}
        assert {name: entry[name] for name in exact} == exact
        if expected.get("cost_nano") == ESTIMATED:
            assert 0 < entry["cost_nano"] <= entry["cap_nano"]
