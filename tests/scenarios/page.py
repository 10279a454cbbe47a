"""The table of docs/doors.md: printed from a run, and checked against what is declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmguard.core.money import usd_string
from tests.scenarios.calls import Row, Scenario, Sees
from tests.scenarios.doors import DOORS
from tests.scenarios.judging import judge
from tests.scenarios.playing import Run
from tests.scenarios.scenarios import NO_MEANING, SCENARIOS, no_meaning

PAGE: Final = Path(__file__).parents[2] / "docs" / "doors.md"
BEGIN: Final = "<!-- printed by `python -m tests.scenarios --write` -->"
END: Final = "<!-- end of what is printed -->"
_LEFT = "leaves"


def declared() -> str:
    """What the page must say."""
    heard = {s.name: [(step.sees.status, step.sees.code) for step in s.steps] for s in SCENARIOS}
    played = [scenario for scenario in SCENARIOS for door in DOORS if no_meaning(door, scenario) is None]
    forwarded, entries = sum(s.forwarded for s in played), sum(len(s.rows) + len(s.second) for s in played)
    return _printed(heard, {s.name: (*s.rows, *s.second) for s in SCENARIOS}, _totals(len(played), forwarded, entries))


def printed(run: Run) -> str:
    """What a run of all scenarios at all doors has shown. Raises what :func:`judge` raises."""
    heard: dict[str, list[tuple[int, str | None]]] = {}
    rows: dict[str, Sequence[Row]] = {}
    for scenario in SCENARIOS:
        doors = [door for door in DOORS if no_meaning(door, scenario) is None]
        for door in doors:
            judge(run, door, scenario)
        whose = (scenario.name, doors[0].name)
        heard[scenario.name] = [(said.status, said.code) for said in run.heard[whose]]
        rows[scenario.name] = (*run.rows.get(whose, ()), *run.second.get(whose, ()))
    kept = sum(said["held"] for said in run.kept.values())
    assert (kept, set().union(*run.busy.values())) == (0, set())
    entries = sum(len(of) for ledger in (run.rows, run.second) for of in ledger.values())
    return _printed(heard, rows, _totals(len(run.heard), sum(run.forwarded.values()), entries))


def text_of(page: str) -> str:
    """What stands on a page between the marks."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def replaced(page: str, text: str) -> str:
    """The page with another text between the marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


def _totals(scenes: int, forwarded: int, entries: int) -> str:
    ended = "0 held and 0 calls open at the end"
    return f"{scenes} scenes, {forwarded} requests to the provider, {entries} ledger entries, {ended}."


def _printed(
    heard: Mapping[str, Sequence[tuple[int, str | None]]], rows: Mapping[str, Sequence[Row]], totals: str
) -> str:
    doors = [f"{number}. {door.title}" for number, door in enumerate(DOORS, 1)]
    numbers = [str(number) for number in range(1, len(DOORS) + 1)]
    table = [_line(["scenario", "what happens", "the caller hears", "the ledger says", *numbers])]
    table.append(_line(["---"] * 4 + [":-:"] * len(DOORS)))
    for scenario in SCENARIOS:
        told = _heard(scenario, heard[scenario.name])
        cells = ["✓" if no_meaning(door, scenario) is None else "–" for door in DOORS]
        table.append(_line([scenario.name, scenario.says, told, _recorded(rows[scenario.name]), *cells]))
    return "\n\n".join(["\n".join(doors), "\n".join(table), totals, "\n".join(_exceptions())])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heard(scenario: Scenario, said: Sequence[tuple[int, str | None]]) -> str:
    words = [
        _LEFT if step.leaves is not None else f"{status} `{code}`" if code else str(status)
        for step, (status, code) in zip(scenario.steps, said, strict=True)
    ]
    return ", ".join(words)


def _recorded(rows: Sequence[Row]) -> str:
    return ", ".join(map(_entry, rows)) or "nothing"


def _entry(row: Mapping[str, Any]) -> str:
    words = ["estimated" if row["usage_source"] == "estimated" else f"${usd_string(row['cost_nano'])}"]
    if row["saved_nano"]:
        words.append(f"saves ${usd_string(row['saved_nano'])}")
    if row["interrupted"]:
        words.append(f"`{row['interrupted']}`")
    return " ".join(words)


def _exceptions() -> list[str]:
    """What is not the same everywhere: why a scenario is left out, and who hears something else."""
    lines = ["Left out:", ""]
    for name, reasons in NO_MEANING.items():
        by_reason: dict[str, list[str]] = {}
        for door, reason in reasons.items():
            by_reason.setdefault(reason, []).extend(_numbers(door))
        lines += [f"- {name} at {', '.join(numbers)}: {reason}." for reason, numbers in by_reason.items()]
    lines += ["", "Heard otherwise:", ""]
    for scenario in SCENARIOS:
        otherwise: dict[str, list[str]] = {}
        for step in scenario.steps:
            for door, sees in step.seen_elsewhere.items():
                otherwise.setdefault(_told(sees), []).extend(_numbers(door))
        lines += [f"- {scenario.name} at {', '.join(numbers)}: {told}." for told, numbers in otherwise.items()]
    return lines


def _told(sees: Sees) -> str:
    """What is heard, in words."""
    if not sees.status:
        return f"the exception `{sees.code}`"
    return f"{sees.status} `{sees.code}`" if sees.code else str(sees.status)


def _numbers(name: str) -> list[str]:
    """The numbers of a door, or of those of a kind."""
    return [str(number) for number, door in enumerate(DOORS, 1) if name in (door.name, door.kind)]
