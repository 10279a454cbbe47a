"""Every kind of task is guarded on real workers, whenever `install` is called and whoever else wraps tasks."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.celery_kinds import KINDS
from tests.support.celery_rig import Worker
from tests.support.valkey import ValkeyServer

RUNS = {
    "before": "prefork",
    "after": "prefork",
    "after_bind": "prefork",
    "in_the_child": "prefork",
    "sentry_first": "prefork",
    "sentry_last": "prefork",
    "otel_first": "prefork",
    "otel_last": "prefork",
    "threads": "threads",
    "gevent": "gevent",
    "solo": "solo",
}
"""Orders and the pool they are tried on; a pool's name stands for the order `after` on it."""

FAILING = "function"
"""The kind that is also told to fail, for the tracers."""


@dataclass
class Run:
    """One worker that has run one task of each kind, and one that failed."""

    worker: Worker
    home: Path

    def lines(self, name: str) -> list[Any]:
        path = self.home / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All workers, started together."""
    with ValkeyServer(databases="16") as broker:
        started: dict[str, Run] = {}
        try:
            for number, (name, pool) in enumerate(RUNS.items()):
                home = tmp_path_factory.mktemp(name)
                url = broker.tcp_url.removesuffix("/0") + f"/{number}"
                environment = {"KINDS_ORDER": "after" if name == pool else name, "KINDS_HOME": str(home)}
                worker = Worker(name, pool, "tests.workers.tasks_kinds", url, url, home, environment, slots=1)
                started[name] = Run(worker, home)
            for run in started.values():
                run.worker.wait_ready()
                run_all(run)
            yield started
        finally:
            for run in started.values():
                run.worker.close()


def run_all(run: Run) -> None:
    """Send one task of each kind, and one to fail."""
    app, queue = run.worker.app, run.worker.queue
    good = [app.send_task(kind, (1,), queue=queue) for kind in KINDS]
    bad = app.send_task(FAILING, (-1,), queue=queue)
    deadline = time.monotonic() + 30
    while not (bad.state == "FAILURE" and all(result.state == "SUCCESS" for result in good)):
        states = {kind: result.state for kind, result in zip(KINDS, good, strict=True)}
        assert time.monotonic() < deadline, f"{states}\n{run.worker.tail()}"
        time.sleep(0.05)


@pytest.mark.parametrize("order", RUNS)
def test_every_kind_ran_guarded_once(runs: dict[str, Run], order: str) -> None:
    ran = runs[order].lines("ran")
    assert Counter(kind for kind, _ in ran) == Counter([*KINDS, FAILING])
    assert [line for line in ran if line[0] != line[1]] == []


@pytest.mark.parametrize("order", ["sentry_first", "sentry_last"])
def test_sentry_sees_every_task_and_the_error(runs: dict[str, Run], order: str) -> None:
    runs[order].worker.stop()
    seen = runs[order].lines("sentry")
    assert Counter(name for name, errors in seen if not errors) == Counter([*KINDS, FAILING])
    assert [line for line in seen if line[1]] == [[FAILING, ["ValueError"]]]


@pytest.mark.parametrize("order", ["otel_first", "otel_last"])
def test_opentelemetry_sees_every_task_and_the_error(runs: dict[str, Run], order: str) -> None:
    seen = runs[order].lines("otel")
    assert Counter(name for name, _ in seen) == Counter([f"run/{kind}" for kind in (*KINDS, FAILING)])
    assert len([name for name, ok in seen if not ok and name == f"run/{FAILING}"]) >= 1
