"""Bodies that swallow refusals and aborts: they end, or hold their slot and pay nothing.

The abort passes whatever catches `Exception`. What catches everything hears each further refusal later; the tasks of its
loop are cancelled, the abort is raised in its thread or greenlet, and a prefork child is killed in the end. On threads,
gevent and solo a loop with a bare `except:` cannot be ended from outside.
"""

from __future__ import annotations

import pytest

from tests.support.celery_rig import rig
from tests.workers import limits
from tests.workers.playing import POOLS, Played, Row, play

TIMEOUT = 45.0

ENDS = tuple(
    Row(task, limits.CALLS, places=POOLS)
    for task in (
        "exception",
        "retries_on_anything",
        "tenacity_on_anything",
        "translates",
        "gathers",
        "task_group",
        "unread_futures",
        "checks_itself",
    )
)
HOLDS = tuple(
    Row(task, limits.CALLS, places=(place,), alone=place == "solo", holds=("threads", "gevent", "solo"))
    for task in ("bare_except", "suppressed", "tenacity_always", "ignores_cancellation")
    for place in POOLS
)
"""On prefork these end, too. On solo each holds the whole worker."""


def cases(rows: tuple[Row, ...]) -> list[object]:
    return [pytest.param(place, row, id=f"{place}-{row.task}") for row in rows for place in row.places]


@pytest.fixture(scope="module")
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The swallowers that were asked for, on a worker for each pool."""
    chosen = [item.callspec.params for item in request.session.items if item.path == request.path]
    wanted = [(params["place"], params["row"]) for params in chosen]
    with rig(tmp_path_factory.mktemp("swallowers"), "tests.workers.tasks_swallowers") as made:
        return play(made, wanted, guarded=True, timeout=TIMEOUT, silence=2.0)


@pytest.mark.parametrize(("place", "row"), cases(ENDS))
def test_a_body_that_swallows_aborts_ends(guarded: Played, place: str, row: Row) -> None:
    found = guarded.outcomes[place, row.task]
    told = f"{found}\n{found.worker.tail()}"
    assert 0 < found.paid <= row.paid, told
    assert found.later == 0, told
    assert found.sent == {"FAILURE": 1}, told
    assert (found.notes["errback"], found.notes["on_failure"]) == (1, 1), told


@pytest.mark.parametrize(("place", "row"), cases(HOLDS))
def test_a_body_that_cannot_be_ended_pays_nothing(guarded: Played, place: str, row: Row) -> None:
    found = guarded.outcomes[place, row.task]
    told = f"{found}\n{found.worker.tail()}"
    assert 0 < found.paid <= row.paid, told
    assert found.later == 0, told
    if place == "prefork":
        assert found.sent == {"FAILURE": 1}, told
        assert found.notes["errback"] == 1, told
