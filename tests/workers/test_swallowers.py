"""Bodies that swallow refusals and aborts: they end, or hold their slot and pay nothing.

The abort passes whatever catches `Exception`. What catches everything hears each further refusal later; the tasks of
its loop are cancelled, the abort is raised in its thread or greenlet, and a prefork child is killed in the end. On
threads, gevent and solo a loop with a bare `except:` cannot be ended from outside.
"""

from __future__ import annotations

import pytest

from tests.support.celery_rig import rig
from tests.workers import limits
from tests.workers.playing import POOLS, Played, Row, play

TIMEOUT = 90.0

TASKS = (
    "exception",
    "retries_on_anything",
    "tenacity_on_anything",
    "translates",
    "gathers",
    "task_group",
    "ignores_cancellation",
    "unread_futures",
    "checks_itself",
)
HOLDERS = ("bare_except", "suppressed", "tenacity_always")
LOOPS = ("gathers", "task_group", "ignores_cancellation")


def swallower(place: str, task: str, holds: tuple[str, ...] = ()) -> Row:
    """Greenlets of one worker cannot have several event loops; on solo a body that holds its slot holds them all."""
    alone = (place == "gevent" and task in LOOPS) or (place == "solo" and task in HOLDERS)
    return Row(task, limits.CALLS, places=(place,), alone=alone, holds=holds)


ENDS = tuple(swallower(place, task) for place in POOLS for task in TASKS)
HOLDS = tuple(swallower(place, task, ("threads", "gevent", "solo")) for place in POOLS for task in HOLDERS)
"""On prefork these end, too."""


def cases(rows: tuple[Row, ...]) -> list[object]:
    return [pytest.param(row.places[0], row, id=f"{row.places[0]}-{row.task}") for row in rows]


@pytest.fixture(scope="module")
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The swallowers that were asked for, on a worker for each pool."""
    chosen = [item.callspec.params for item in request.session.items if item.path == request.path]
    wanted = [(params["place"], params["row"]) for params in chosen]
    with rig(tmp_path_factory.mktemp("swallowers"), "tests.workers.tasks_swallowers") as made:
        return play(made, wanted, guarded=True, timeout=TIMEOUT, silence=2.0, turns=[POOLS])


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
