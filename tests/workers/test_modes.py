"""Every known way to run away, on every pool where it exists: stock Celery does, the guard stops it.

Many rows of several pools run at the same time, each under a tag of its own, first stock and then guarded; the tests
look at what became of them. "Paid" is what the provider answered. One silence of thirty seconds is watched for all.
`pytest -k "guarded and prefork-autoretry"` starts no more than it needs.

The suite plays the stock half on prefork, and on RabbitMQ the rows whose mode is the broker's; `make test-workers`
plays every row everywhere, both ways.
"""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from tests.support.celery_rig import SLOTS, rabbitmq_missing, rig
from tests.support.celery_upstream import Behaviour
from tests.workers import limits
from tests.workers.playing import FULL, PLACES, POOLS, PREFORK, Played, Row, play

TIMEOUT = 120.0
SILENCE = 30.0

ROWS = (
    Row("autoretry", limits.PAID),
    Row("retry_swallows", limits.PAID),
    Row("reject_requeue", limits.PAID),
    Row("double_retry", limits.PAID + 1, stock=15),
    Row("client_timeout", limits.PAID, stock=8, behaviour=Behaviour(delay=2.0)),
    Row("replace_self", limits.DEPTH + 1),
    Row("enqueue_self", limits.DEPTH + 1, tree=True),
    Row("enqueue_from_thread", limits.DEPTH + 1, tree=True),
    Row("fan_out_calls", limits.TREE, tree=True),
    Row("fan_out_tasks", limits.TREE, tree=True),
    Row("fan_out_money", limits.TREE_BUDGET_CALLS, tree=True),
    Row("storm", limits.FAILURES, sends=40, parallel=True),
    Row("storm_of_retries", limits.STORM + limits.RETRIES, sends=limits.STORM),
    Row("storm_of_money", limits.FEATURE_BUDGET_CALLS, sends=40),
    Row("poison_pill", limits.LOST + 1, stock=6, places=PREFORK),
    Row("retry_on_worker_lost", limits.LOST + 1, stock=6, places=PREFORK),
    Row("outlasts_visibility", 1, 2, "SUCCESS", places=POOLS, arguments=(7.0,), alone=True, visibility=2),
    Row("while_true", limits.CALLS),
    Row("same_prompt", limits.CALLS),
    Row("spends", limits.TASK_BUDGET_CALLS),
    Row("tenacity_for_ever", limits.CALLS),
    Row("threads_inside", limits.CALLS),
    Row("asyncio_inside", limits.CALLS),
    Row("runs_eagerly", limits.PAID),
    Row("undecorated_autoretry", 4),
    Row("undecorated_same_prompt", 6),
    Row("undecorated_poison_pill", 3, stock=6, places=PREFORK),
)
BROKERS = {"autoretry", "reject_requeue", "replace_self", "enqueue_self", "poison_pill", "retry_on_worker_lost"}


def cases(*, stock: bool) -> list[ParameterSet]:
    """Rows and the places where they are played."""

    def chosen(place: str, row: Row) -> bool:
        if FULL:
            return True
        return place == "prefork" if stock else place != "rabbitmq" or row.task in BROKERS

    found = [(place, row) for row in ROWS for place in row.places if chosen(place, row)]
    return [pytest.param(place, row, id=f"{place}-{row.task}") for place, row in found]


CONFIG = {
    "budgets": [
        {"name": "feature", "scope": {"feature": "storm-money"}, "limit": limits.FEATURE_BUDGET, "window": "hour"},
    ]
}


@pytest.fixture(scope="module")
def halves(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """Both halves of the table, played for the rows that were asked for."""
    missing = rabbitmq_missing()
    wanted: dict[str, list[tuple[str, Row]]] = {"stock": [], "guarded": []}
    for item in request.session.items:
        if item.path == request.path and "row" in item.callspec.params:
            place, row = item.callspec.params["place"], item.callspec.params["row"]
            if place != "rabbitmq" or missing is None:
                wanted["guarded" if "guarded" in item.name else "stock"].append((place, row))
    played = {}
    for half, cases in wanted.items():
        if not cases:
            continue
        with rig(tmp_path_factory.mktemp(half), "tests.workers.tasks_modes", config=CONFIG) as made:
            guarded = half == "guarded"
            played[half] = play(made, cases, guarded=guarded, timeout=TIMEOUT, silence=SILENCE if guarded else 0.0)
    return played


def outcome(halves: dict[str, Played], half: str, place: str) -> Played:
    if place == "rabbitmq" and (missing := rabbitmq_missing()):
        pytest.skip(missing)
    return halves[half]


@pytest.mark.parametrize(("place", "row"), cases(stock=True))
def test_stock_celery_pays_on_and_on(halves: dict[str, Played], place: str, row: Row) -> None:
    assert outcome(halves, "stock", place).outcomes[place, row.task].paid >= row.stock


@pytest.mark.parametrize(("place", "row"), cases(stock=False))
def test_a_guarded_runaway_is_stopped(halves: dict[str, Played], place: str, row: Row) -> None:
    found = outcome(halves, "guarded", place).outcomes[place, row.task]
    told = f"{found}\n{found.worker.tail()}"
    slots = SLOTS["prefork" if place == "rabbitmq" else place]
    assert 0 < found.paid <= row.paid + (slots - 1 if row.parallel else 0), told
    assert found.ended, told
    assert found.later == 0, told
    if row.tree:
        assert found.states[row.state] >= 1, told
        return
    failed = row.sends if row.state == "FAILURE" else 0
    assert found.sent == {row.state: row.sends}, told
    assert (found.notes["errback"], found.notes["on_failure"]) == (failed, failed), told


@pytest.mark.parametrize("place", PLACES)
def test_the_worker_lives_and_takes_the_next_task(halves: dict[str, Played], place: str) -> None:
    assert outcome(halves, "guarded", place).serving[place] is True
