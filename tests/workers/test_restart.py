"""What has been counted outlives workers; an operator can lift it: once, and on record."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.celery_rig import rig

TASKS = "tests.workers.tasks_healthy"
PAID = 4
"""Paid attempts of the task that has to be mended."""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restart_of_all_workers_in_mid_loop_resets_nothing(tmp_path: Path, how: int) -> None:
    with rig(tmp_path, TASKS) as made:
        worker = made.worker("prefork", guarded=True, visibility=5)
        worker.wait_ready()
        task_id = worker.send("until_mended", "job")
        worker.wait_until(lambda: made.provider.paid("job") == 2, 30, "two calls are paid")
        worker.wait_until(lambda: worker.state(task_id) == "RETRY", 10, "the second run has ended")
        worker.stop(how)
        worker.start()
        worker.wait_ready()
        worker.wait_state(task_id, "FAILURE", 30)
        assert worker.wait_done("job")
        assert made.provider.paid("job") == PAID
        assert made.notes("job") == {"run": PAID, "errback": 1, "on_failure": 1}


def test_a_reset_and_one_requeued_letter_are_one_new_run(tmp_path: Path) -> None:
    with rig(tmp_path, TASKS) as made:
        worker = made.worker("threads", guarded=True)
        worker.wait_ready()
        task_id = worker.send("until_mended", "job")
        worker.wait_state(task_id, "FAILURE", 30)
        assert worker.wait_done("job")
        (trip,) = made.llmguard("trips", "list")
        assert (trip["rule"], trip["name"], trip["seen"]) == ("max_paid_attempts", f"task:{task_id}:0", str(PAID))
        (tmp_path / "mended").touch()
        worker.send("until_mended", "job", task_id=task_id, link_error=None)
        worker.wait_drained()
        assert made.provider.paid("job") == PAID, "a message under the old id runs although nobody lifted the trip"

        made.llmguard("trips", "reset", trip["name"])
        sent = made.llmguard("dlq", "requeue", "--app", TASKS, "--max", "1", worker=worker)
        (run,) = sent["requeued"]
        assert run["task_id"] == task_id
        worker.wait_state(run["requeued_as"], "SUCCESS", 30)
        assert worker.wait_done("job")
        assert made.provider.paid("job") == made.notes("job")["run"] == PAID + 1
        assert made.llmguard("dlq", "requeue", "--app", TASKS, "--max", "1", worker=worker)["requeued"] == []
        actions = [record["action"] for record in made.llmguard("audit", "tail")]
        assert actions == ["config.changed", "trip", "trip.reset", "dead_letter.requeue"]
        assert made.llmguard("audit", "verify")["flaws"] == []
        assert made.provider.paid("job") == PAID + 1
