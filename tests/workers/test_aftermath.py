"""What an operator has of a stopped task: one alert, one row, one letter; and how it is run again, mended."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.support.celery_rig import ROOT, Rig, Worker, rig
from tests.support.receiver import receiver
from tests.workers import limits

TASKS = "tests.workers.tasks_modes"


def requeue(r: Rig, worker: Worker) -> subprocess.CompletedProcess[str]:
    """`llmguard dlq requeue`, run where the app can be loaded."""
    command = [sys.executable, "-m", "llmguard", "dlq", "requeue", "--app", f"{TASKS}:app", "--json"]
    environment = worker.environment
    return subprocess.run(
        [*command, "--config", str(r.config)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def test_from_the_trip_to_the_run_that_succeeds(tmp_path: Path) -> None:
    with receiver() as there, rig(tmp_path, TASKS, config={"alerts": [{"url": there.url, "internal": True}]}) as r:
        worker = r.worker("prefork", guarded=True)
        r.wait_ready()
        task_id = worker.send("autoretry", "loop")
        worker.wait_state(task_id, "FAILURE")
        failed = time.monotonic()
        (got,) = there.wait(lambda found: len(found) == 1)
        assert time.monotonic() - failed < 10
        assert worker.wait_done("loop")
        assert r.provider.paid("loop") == limits.PAID
        worker.wait_until(lambda: len(r.llmguard("dlq", "list")) == 1, what="the letter is kept")

        (trip,) = r.llmguard("trips", "list")
        assert (trip["rule"], trip["task_id"], trip["task"]) == ("max_paid_attempts", task_id, f"{TASKS}.autoretry")
        assert (trip["team"], trip["feature"], trip["limit"]) == ("rig", "rig", str(limits.PAID))
        assert (got.alert["id"], got.alert["type"]) == (trip["id"], "trip")
        (letter,) = r.llmguard("dlq", "list")
        assert (letter["task_id"], letter["team"], letter["rule"]) == (task_id, "rig", "max_paid_attempts")

        (tmp_path / "mains" / "loop").touch()  # the mistake is mended: the task ends without a call
        sent = requeue(r, worker)
        assert sent.returncode == 0, sent.stderr
        ((run,), left) = json.loads(sent.stdout).values()
        worker.wait_state(run["requeued_as"], "SUCCESS")
        assert left == 0
        assert json.loads(requeue(r, worker).stdout)["requeued"] == []
        assert worker.wait_done("loop")
        assert worker.states("loop") == {"FAILURE": 1, "SUCCESS": 1}

        r.llmguard("trips", "reset", trip["id"])
        assert r.llmguard("trips", "list") == []
        records = r.llmguard("audit", "tail")
        did = ["config.changed", "trip", "dead_letter.requeue", "trip.reset"]
        assert [record["action"] for record in records] == did
        verified = r.llmguard("audit", "verify")
        assert (verified["records"], verified["flaws"]) == (len(did), [])
        assert len(there.got) == 1
        assert worker.log.read_text().count("runaway: task") == 1
