"""`llmguard demo`: a runaway job, first without the guard, then with it; what it cost, and what it would have cost."""

# ruff: noqa: PLC0415  the command loads Celery when it runs

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llmguard.cli.common import say
from llmguard.errors import GuardUnavailable

if TYPE_CHECKING:
    from llmguard.cli.demo_stage import Sandbox

MANUAL = "Turn the tap clockwise until it stops. " * 12_000
"""468 KB, which the sandbox bills as 117,000 tokens: nearly the whole context of the model, each time."""

LATENCY_S = 1.0
"""What the sandbox takes for an answer; a model takes that at the least."""

WATCH_S = 8.0
ENDS_S = 30.0
WEEKEND_H = 63
"""Friday 18:00 to Monday 09:00."""

DOCUMENTS = ("Rent is due on the first.", "The lift is serviced in May.", "Keys are returned on moving out.")


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(demo)


def demo(
    redis: Annotated[
        str | None, typer.Option(help="A Redis or Valkey to use instead of a private one, redis://host:port/0.")
    ] = None,
) -> None:
    """Let a job run away on a real Celery worker, and stop it.

    Starts a broker, the sandbox as a provider and the worker of examples/celery_worker, all on this machine. Takes less
    than a minute and leaves no process behind.
    """
    missing = [name for name in ("celery", "redis", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        what = "pip install 'llmguard-gateway[celery,redis]' openai"
        raise GuardUnavailable(f"the demo needs {', '.join(missing)}: `{what}`")
    from llmguard.cli import demo_stage

    with tempfile.TemporaryDirectory(prefix="llmguard-demo-") as directory:
        home = Path(directory)
        server = nullcontext(redis) if redis else demo_stage.broker(home)
        with server as url, demo_stage.Sandbox(LATENCY_S) as sandbox:
            play = _Play(home, url, sandbox)
            try:
                rate = play.without_guard()
                stopped = play.with_guard(rate)
            finally:
                play.close()
    if not stopped:
        say("the job was not stopped; please report what the demo has printed")
        raise typer.Exit(1)


class _Play:
    """The two acts. ``url`` is the broker, the result back end and the guard's quota store."""

    def __init__(self, home: Path, url: str, sandbox: Sandbox) -> None:
        from celery import Celery
        from redis import Redis

        from llmguard.cli.demo_stage import example

        self._home, self._sandbox = home, sandbox
        self._queue = f"llmguard-demo-{uuid.uuid4().hex[:8]}"
        self._app = Celery("demo", broker=url, set_as_current=False)
        self._results = Redis.from_url(url)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMGUARD_")}
        self._environment = clean | {
            "BROKER_URL": url,
            "MODEL": "gpt-4o",
            "OPENAI_API_KEY": "sandbox",
            "OPENAI_BASE_URL": sandbox.url,
            "LLMGUARD_CONFIG": str(example() / "llmguard.yaml"),
            "LLMGUARD_PROVIDERS__OPENAI__BASE_URL": sandbox.url,
            "LLMGUARD_PROVIDERS__OPENAI__INTERNAL": "true",
            "LLMGUARD_STORE": url,
            "LLMGUARD_LEDGER": f"sqlite:///{home / 'llmguard.db'}",
            "LLMGUARD_SPOOL__PATH": str(home / "spool"),
        }

    def without_guard(self) -> float:
        """The first act; returns the calls a second that the job makes."""
        from llmguard.cli.demo_stage import worker

        _title("Without the guard")
        typer.echo(
            "A Celery task asks gpt-4o for prose and reads the answer as JSON. It takes the error for bad luck and"
        )
        typer.echo("retries for ever, with a manual of 117,000 tokens in every prompt.")
        with worker(self._home, self._environment | {"GUARD": "off"}, self._queue):
            self._send("extract", MANUAL)
            _wait(lambda: self._sandbox.calls > 0, ENDS_S)
            began, first = time.monotonic(), self._sandbox.calls
            while (passed := time.monotonic() - began) < WATCH_S:
                time.sleep(2.0)
                _line(f"{passed + 2:4.0f} s", f"{self._sandbox.calls} calls paid")
            rate = (self._sandbox.calls - first) / (time.monotonic() - began)
        self._drop_queue()
        self._queue += "-guarded"  # the broker may still give back what the first worker was about to do
        typer.echo("It goes on like this until somebody looks. The worker is stopped by hand.")
        return rate

    def with_guard(self, rate: float) -> bool:
        """The second act; returns whether the job was stopped and everything else went well."""
        from llmguard.cli.demo_stage import worker

        _title("With the guard")
        typer.echo("The same worker with install(app), the same task, and healthy ones beside it.")
        with worker(self._home, self._environment, self._queue) as log:
            healthy = [self._send("summarise", document) for document in DOCUMENTS]
            healthy.append(self._send("digest", list(DOCUMENTS)))
            job = self._send("extract", MANUAL)
            _wait(lambda: self._ended(job), ENDS_S)
            healthy.append(self._send("summarise", "The worker lives and takes the next task."))
            _wait(lambda: all(map(self._ended, healthy)), ENDS_S)
            for task_id in (job, *healthy):
                _line(*self._outcome(task_id))
            for line in log.read_text(errors="replace").splitlines():
                if " runaway: " in line:
                    _line("log", line.split(" runaway: ", 1)[1])
            calls, cost = self._spent(minimum=1)
            reset = self._trips() and self._reset()
        _bill(calls, cost, rate)
        states = [self._outcome(task_id)[0] for task_id in (job, *healthy)]
        return reset and states == ["FAILURE", *["SUCCESS"] * len(healthy)]

    def close(self) -> None:
        """Leave nothing on a broker that is not ours."""
        self._drop_queue()
        self._app.close()
        self._results.close()

    def _send(self, task: str, *arguments: Any) -> str:
        return str(self._app.send_task(f"tasks.{task}", arguments, queue=self._queue).id)

    def _outcome(self, task_id: str) -> tuple[str, str]:
        """State and result of a task; what has failed says why."""
        stored = self._results.get(f"celery-task-meta-{task_id}")
        if stored is None:
            return "PENDING", "not finished"
        meta = json.loads(cast("bytes", stored))
        result = meta["result"]
        words = " ".join(map(str, result["exc_message"])) if isinstance(result, dict) else str(result)
        return meta["status"], " ".join(words.split())

    def _ended(self, task_id: str) -> bool:
        return self._outcome(task_id)[0] in ("SUCCESS", "FAILURE")

    def _drop_queue(self) -> None:
        with self._app.connection_for_write() as connection:
            connection.default_channel.queue_delete(self._queue)

    # ------------------------------------------------------------------ commands that an operator would use

    def _spent(self, *, minimum: int) -> tuple[int, Decimal]:
        """Calls of the broken task and what they cost, from the ledger, once they have arrived there."""
        found: dict[str, Any] = {"calls": 0, "cost_usd": "0"}

        def arrived() -> bool:
            rows = json.loads(self._llmguard("report", "--by", "feature", "--since", "1d", "--json"))["rows"]
            found.update(next((row for row in rows if row["feature"] == "extraction"), {}))
            return int(found["calls"]) >= minimum

        _wait(arrived, 10)
        return int(found["calls"]), Decimal(found["cost_usd"])

    def _trips(self) -> bool:
        typer.echo("\nWhat an operator sees, and how the task is let run again once it is mended:")
        return bool(self._shown("trips", "list").count("\n") > 1)

    def _reset(self) -> bool:
        (trip, *_) = json.loads(self._llmguard("trips", "list", "--json"))
        self._shown("trips", "reset", trip["name"])
        return not json.loads(self._llmguard("trips", "list", "--json"))

    def _shown(self, *arguments: str) -> str:
        """Run a command before everybody's eyes."""
        typer.echo(f"\n  $ llmguard {' '.join(arguments)}")
        output = self._llmguard(*arguments)
        for line in output.splitlines():
            typer.echo(f"  {line}")
        return output

    def _llmguard(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "llmguard", *arguments]
        done = subprocess.run(
            command, env=self._environment, cwd=self._home, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise GuardUnavailable(f"`llmguard {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout


def _bill(calls: int, cost: Decimal, rate: float) -> None:
    _title("The bill")
    each = cost / max(calls, 1)
    hours = Decimal(str(rate)) * 3600
    _line(f"${cost:.2f}", f"paid by the guarded job, {calls} calls of ${each:.2f}, before it was stopped")
    _line(f"${each * hours * WEEKEND_H:,.0f}", "the same job without the guard, from Friday 18:00 to Monday 09:00")
    seconds = f"{LATENCY_S:.0f} s"
    typer.echo(
        f"The second sum is an extrapolation: {rate:.2f} calls a second, as measured above, at the same price, for"
    )
    typer.echo(f"{WEEKEND_H} hours. The sandbox takes {seconds} for an answer; a slower model would have cost less.")


def _title(text: str) -> None:
    typer.echo(f"\n{text}\n{'-' * len(text)}")


def _line(mark: str, text: str) -> None:
    typer.echo(f"  {mark:>10}  {text}")


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
