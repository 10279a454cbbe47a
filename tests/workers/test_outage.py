"""The quota store freezes or dies while the broker lives: tasks go on within a small allowance, then wait.

What was spent meanwhile is in the store's sums again soon after it is back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.celery_rig import Rig, Worker, rig

DECIDED_S = 0.5
GRACE_S = 15.0
CAUGHT_UP_S = 60.0
TASKS = 5
CONFIG = {
    "budgets": [
        {"name": "team", "scope": {"team": "*"}, "limit": "$100", "window": "total"},
        {
            "name": "denied",
            "scope": {"feature": "denied"},
            "limit": "$100",
            "window": "total",
            "when_store_down": "deny",
        },
    ],
    "store_down": {"budget": "$0.50", "calls": "30/1m", "tasks_for": f"{GRACE_S:.0f}s"},
}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    """One worker of one process, so that there is one allowance; a new one, because a store that comes and goes renews
    nothing."""
    with rig(tmp_path, "tests.workers.tasks_healthy", config=CONFIG) as prepared:
        prepared.worker("threads", guarded=True, slots=4)
        prepared.wait_ready()
        assert prepared.workers[0].serves()  # what is made once is made
        yield prepared


def outcomes(worker: Worker, task: str, tag: str, number: int = TASKS) -> list[tuple[str, float]]:
    """What came of so many tasks, all of which succeed, and how long each call took."""
    ids = [worker.send(task, tag) for _ in range(number)]
    for task_id in ids:
        worker.wait_state(task_id, "SUCCESS", 30)
    return [tuple(result.value) for result in worker.results()[tag] if result.id in ids]


def decided(found: list[tuple[str, float]], outcome: str) -> None:
    assert [said for said, _ in found] == [outcome] * len(found)
    assert max(took for _, took in found) < DECIDED_S


def caught_up(made: Rig) -> float:
    """How long until the store's sum of the team is the ledger's, with nothing held."""
    began = time.monotonic()
    while True:
        (row,) = [
            row for row in made.llmguard("report", "--by", "team", "--since", "1d")["rows"] if row["team"] == "rig"
        ]
        sums: list[dict[str, Any]] = made.llmguard("budgets", "list")
        kept = [each for each in sums if each["rule"] == "team" and each["scope"] == {"team": "rig"}]
        if kept and Decimal(kept[0]["settled"]) == Decimal(row["cost_usd"]) and not Decimal(kept[0]["held"]):
            return time.monotonic() - began
        assert time.monotonic() - began < CAUGHT_UP_S, (row, kept)
        time.sleep(0.5)


def test_a_frozen_store_is_decided_in_time_and_caught_up_with(made: Rig) -> None:
    worker = made.workers[0]
    decided(outcomes(worker, "timed", "before"), "Yes.")
    made.quota.freeze()
    frozen = time.monotonic()
    try:
        decided(outcomes(worker, "timed", "frozen"), "Yes.")
        decided(outcomes(worker, "timed_under_deny", "denied"), "quota_unavailable")
        time.sleep(max(0.0, frozen + GRACE_S + 1 - time.monotonic()))
        decided(outcomes(worker, "timed", "too-long"), "quota_unavailable")
    finally:
        made.quota.thaw()
    assert caught_up(made) < CAUGHT_UP_S
    assert (made.provider.paid("frozen"), made.provider.paid("denied"), made.provider.paid("too-long")) == (TASKS, 0, 0)
    decided(outcomes(worker, "timed", "after"), "Yes.")


def test_the_allowance_of_an_outage_is_all_there_is(made: Rig) -> None:
    """Thirty calls a minute, then no more, until the minute is over or the store is back."""
    worker = made.workers[0]
    made.quota.freeze()
    try:
        said = [outcome for outcome, _ in outcomes(worker, "timed", "allowance", 70)]
    finally:
        made.quota.thaw()
    assert 30 <= said.count("Yes.") <= 48
    assert said.count("Yes.") == made.provider.paid("allowance")
    assert set(said) == {"Yes.", "quota_unavailable"}
    assert caught_up(made) < CAUGHT_UP_S


def test_a_store_that_died_is_decided_in_time_and_caught_up_with(made: Rig) -> None:
    worker = made.workers[0]
    made.quota.kill()
    try:
        decided(outcomes(worker, "timed", "gone"), "Yes.")
        decided(outcomes(worker, "timed_under_deny", "gone-denied"), "quota_unavailable")
    finally:
        made.quota.start()
    assert caught_up(made) < CAUGHT_UP_S
    assert made.provider.paid("gone") == TASKS
    worker.wait_until(lambda: outcomes(worker, "timed", "again", 1)[0][0] == "Yes.", CAUGHT_UP_S, "calls are admitted")
    assert worker.serves()
