"""After how many refusals a task is aborted, and how late it hears the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llmguard.integrations.httpx.aborts import aborted, delay


def refused(times: int) -> Any:
    return SimpleNamespace(refusals=times, name="tasks.summarise", task_id="t-1")


def test_three_refusals_are_told_and_the_fourth_aborts() -> None:
    assert [aborted(refused(times), "no money") is not None for times in range(1, 6)] == [False] * 3 + [True] * 2
    assert str(aborted(refused(4), "no money")) == "tasks.summarise[t-1] went on after 3 refusals: no money"


def test_whoever_swallows_the_abort_hears_each_further_one_later_and_never_later_than_half_a_minute() -> None:
    delays = [delay(refused(times)) for times in range(1, 14)]
    assert delays == [0.0] * 4 + [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert delay(refused(10_000)) == 30.0
