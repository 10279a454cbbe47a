"""A worker killed with SIGKILL around a reply: the call is in the ledger after adoption, once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.celery_rig import Rig, Worker, rig
from tests.support.celery_upstream import Behaviour

TASKS = "tests.workers.tasks_healthy"
ADOPTED_S = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("killed"), TASKS) as prepared:
        prepared.worker("prefork", guarded=True)
        prepared.wait_ready()
        yield prepared


def rows(made: Rig, task_id: str) -> list[dict[str, Any]]:
    """What the ledger has of a task."""
    import sqlalchemy as sa

    engine = sa.create_engine(f"sqlite:///{made.home / 'ledger.db'}")
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT * FROM ledger_entries WHERE task_id = :id"), {"id": task_id})
        entries = [dict(row) for row in found.mappings()]
    engine.dispose()
    return entries


def adopted(made: Rig, worker: Worker, task_id: str) -> dict[str, Any]:
    """The row of a call whose process is dead: there in time, and still alone a moment later."""
    worker.serves()  # another process is at work
    worker.wait_until(lambda: bool(rows(made, task_id)), ADOPTED_S, "the call is in the ledger")
    time.sleep(2.0)
    (row,) = rows(made, task_id)
    return row


def test_killed_between_the_reply_and_its_way_to_the_ledger(made: Rig) -> None:
    worker = made.workers[0]
    task_id = worker.send("dies_after_the_reply", "after")
    worker.wait_state(task_id, "FAILURE")
    assert made.provider.paid("after") == 1
    row = adopted(made, worker, task_id)
    assert (row["cost_nano"], row["usage_source"], row["team"]) == (10_300_000, "provider", "rig")


def test_killed_while_the_provider_answers(made: Rig) -> None:
    worker = made.workers[0]
    made.provider.behave("during", Behaviour(delay=30.0))
    task_id = worker.send("waits_for_the_reply", "during")
    worker.wait_until(lambda: made.provider.paid("during") == 1, 30, "the call has arrived")
    (pid,) = made.notes("during")
    os.kill(int(pid), signal.SIGKILL)
    worker.wait_state(task_id, "FAILURE")
    row = adopted(made, worker, task_id)
    assert row["usage_source"] in ("estimated", "hold")
    assert row["cost_nano"] > 0
    assert worker.serves()
