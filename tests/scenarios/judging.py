"""Says whether what came of a scenario at a door is what it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.scenarios.calls import ANY, Heard, Row, Scenario, Sees
from tests.scenarios.doors import Door
from tests.scenarios.playing import Run
from tests.scenarios.replies import ESTIMATED


def judge(run: Run, door: Door, scenario: Scenario) -> None:
    """Raises AssertionError, or what went wrong on the way."""
    whose = (scenario.name, door.name)
    if whose in run.failed:
        raise run.failed[whose]
    heard = run.heard[whose]
    assert len(heard) == len(scenario.steps)
    for step, said in zip(scenario.steps, heard, strict=True):
        if step.leaves is None:
            _check_heard(said, step.wanted(door.name, door.kind))
    assert run.forwarded.get(whose, 0) == scenario.forwarded, (
        f"{whose}: {run.forwarded.get(whose, 0)} requests that reached the provider"
    )
    check_rows(run.rows.get(whose, ()), scenario.rows)
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
        assert said == (value if value != ANY else said or ANY), (name, value)
    for name in wanted.lacks:
        assert name not in heard.headers, (name, heard.headers[name])


def check_rows(found: Sequence[Mapping[str, Any]], wanted: Sequence[Row]) -> None:
    """The entries of a caller, and nothing else of its."""
    assert len(found) == len(wanted), [(e["status"], e["cost_nano"], e["interrupted"]) for e in found]
    for entry, expected in zip(found, wanted, strict=True):
        exact = {name: value for name, value in expected.items() if value not in (ESTIMATED, ANY)}
        other = {name: (entry[name], value) for name, value in exact.items() if entry[name] != value}
        assert not other, f"(found, wanted): {other}"
        if expected.get("cost_nano") == ESTIMATED:
            assert 0 < entry["cost_nano"] <= entry["cap_nano"], (entry["cost_nano"], entry["cap_nano"])


OWN: Final = {
    *("event_id", "attempt_id", "created_at", "env", "principal", "key_id", "tree_id", "trace_id"),
    *("latency_ms", "ttft_ms", "charges", "estimate_nano", "cap_nano"),
}
"""Columns in which calls differ that are alike. A prompt is counted as exactly as there is need just then."""


def disagreements(run: Run, scenario: Scenario, doors: Sequence[Door]) -> dict[str, dict[str, Any]]:
    """By column, what the entries of a scenario say at each door, where that is not the same."""
    told: dict[str, dict[str, Any]] = {}
    for door in doors:
        for number, entry in enumerate(run.rows.get((scenario.name, door.name), ())):
            for column, value in entry.items():
                told.setdefault(f"{column} {number}", {})[door.name] = value
    free = OWN | scenario.timed
    return {name: said for name, said in told.items() if name.split()[0] not in free and len(set(said.values())) > 1}
