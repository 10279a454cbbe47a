"""Healthy work is untouched: nothing is stopped and nothing is charged to a neighbour, whatever it looks like."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.support.celery_rig import PRICE, Rig, Worker, rig
from tests.support.celery_upstream import Behaviour
from tests.workers.limits import BATCH, CHAIN, PARALLEL, SAMPLES, VAIN

TASKS = "tests.workers.tasks_healthy"
ORDINARY = {"ant": 300, "bee": 250, "cat": 200, "dog": 150, "eel": 100}
CALL_USD = Decimal("0.0103")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A worker of each pool; all of them count for the same teams. At the end nothing was stopped."""
    config = {"prices": {"openai/rig": PRICE}}
    with rig(tmp_path_factory.mktemp("healthy"), TASKS, config=config, ceiling=10 * BATCH) as prepared:
        for pool in ("prefork", "threads", "gevent"):
            prepared.worker(pool, guarded=True, name=pool)
        prepared.wait_ready()
        yield prepared
        assert prepared.llmguard("trips", "list", "--all") == []


def succeeds(made: Rig, task: str, *, paid: int, pool: str = "prefork", timeout: float = 90.0) -> Worker:
    """A task is sent and succeeds with all that it starts, and so much is paid for it."""
    worker = next(worker for worker in made.workers if worker.name == pool)
    tag = f"{task}-{pool}"
    worker.wait_state(worker.send(task, tag), "SUCCESS", timeout)
    assert worker.wait_done(tag, timeout=timeout), worker.tail()
    assert made.provider.paid(tag) == paid
    assert worker.states(tag).keys() == {"SUCCESS"}
    assert not made.notes(tag)
    return worker


def test_three_unbilled_errors_and_then_success(made: Rig) -> None:
    made.provider.behave("through_errors-prefork", Behaviour(failures=3))
    succeeds(made, "through_errors", paid=1)


def test_a_task_that_may_be_retried_ten_times_pays_six_times_and_succeeds(made: Rig) -> None:
    succeeds(made, "sixth_time_lucky", paid=VAIN + 1)


def test_the_best_of_twenty_samples(made: Rig) -> None:
    succeeds(made, "best_of", paid=SAMPLES)


def test_a_batch_with_its_limits_raised(made: Rig) -> None:
    succeeds(made, "batch", paid=BATCH)


def test_a_batch_without_a_policy_is_warned_and_not_stopped(made: Rig) -> None:
    worker = succeeds(made, "undecorated_batch", paid=BATCH, pool="threads")
    warnings = [line for line in worker.log.read_text().splitlines() if "WARNING" in line and "max_calls" in line]
    assert len(warnings) == 1
    assert "undecorated_batch" in warnings[0]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_chain_of_twenty_six_steps(made: Rig, pool: str) -> None:
    worker = next(worker for worker in made.workers if worker.name == pool)
    tag = f"steps-{pool}"
    worker.send("steps", tag)
    worker.wait_until(lambda: worker.states(tag)["SUCCESS"] == CHAIN + 1, 60, "the chain has ended")
    assert made.provider.paid(tag) == CHAIN


def test_twenty_ordinary_calls_at_once_under_a_budget_of_two_dollars(made: Rig) -> None:
    succeeds(made, "parallel", paid=PARALLEL)


def test_a_thousand_tasks_of_five_teams_are_charged_to_their_own_team(made: Rig) -> None:
    """Interleaved, on three pools at once."""
    todo = Counter(ORDINARY)
    number = 0
    while todo:
        for team in list(todo):
            worker = made.workers[number % len(made.workers)]
            worker.send(f"ordinary.{team}", f"{team}-{worker.name}", link_error=None)
            number += 1
            todo[team] -= 1
            if not todo[team]:
                del todo[team]
    assert number == 1_000
    paid: dict[str, int] = {}
    deadline = time.monotonic() + 120
    while paid != ORDINARY and time.monotonic() < deadline:
        time.sleep(0.2)
        paid = {team: sum(made.provider.paid(f"{team}-{worker.name}") for worker in made.workers) for team in ORDINARY}
    assert paid == ORDINARY
    charged: dict[tuple[str, str], tuple[int, Decimal]] = {}
    while sum(calls for calls, _ in charged.values()) < number and time.monotonic() < deadline:
        rows = made.llmguard("report", "--by", "team,feature", "--since", "1d")["rows"]
        found = {(row["team"], row["feature"]): (row["calls"], Decimal(row["cost_usd"])) for row in rows}
        charged = {key: value for key, value in found.items() if key[0] in ORDINARY}
    assert charged == {(team, f"{team}-feature"): (n, n * CALL_USD) for team, n in ORDINARY.items()}
