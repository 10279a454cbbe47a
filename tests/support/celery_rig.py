"""Real Celery workers for tests, a private broker, and a provider that counts what they pay.

::

    with rig(tmp_path, tasks="tests.workers.tasks_modes") as r:
        worker = r.worker("prefork", guarded=True)         # a process of its own; also "threads", "gevent", "solo"
        r.wait_ready()
        task_id = worker.send("tests.workers.tasks_modes.looping", "tag-1")
        worker.wait_done("tag-1")                          # every task of that tag has ended, the queue is empty
        assert r.provider.paid("tag-1") <= 3               # calls that the provider answered
        assert worker.state(task_id) == "FAILURE"
        assert r.notes("tag-1")["errback"] == 1            # once: every send has an error callback that notes itself
        assert worker.serves()                             # alive, and it runs the next task

What the parts are:

- a **worker** is `python -m celery worker` with its own queue, broker database and log (``worker.log``). ``guarded``
  says whether `install`, `@llm_task` and `instrument()` are at work; stock workers run the very same module of tasks;
- **tasks** are written with :mod:`tests.support.celery_side`: ``app``, ``llm_task``, ``pay(tag)``, ``mains_off(tag)``,
  ``note(tag, what)``. The first argument of every task is its *tag*, a name that no other row shares, so many rows
  run side by side on one worker;
- the **provider** (:mod:`tests.support.celery_upstream`) bills by tag. At ``ceiling`` paid calls it turns the tag's
  mains off, and the task ends by itself: stock rows assert that they got there, and no storm outlives a test;
- ``r.quota`` is the guard's own Valkey server, apart from the broker; ``r.config`` the path of its `llmguard.yaml`.
  A call of :func:`~tests.support.celery_side.pay` costs $0.0103 unless ``r.provider.behave`` or the prices say
  otherwise, and the guard can know it beforehand: 30 tokens in, 100 out.

RabbitMQ: ``r.worker(..., amqp=True)`` takes the server of `LLMGUARD_TEST_AMQP` (by default the one of this machine);
the queue is deleted afterwards. Where :func:`rabbitmq_missing` gives a reason, skip with it.
Everything is ended by process id, whatever happens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, Signature
from celery.states import READY_STATES
from redis import Redis

from tests.support.celery_upstream import PaidUpstream, paid_upstream
from tests.support.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
AMQP = os.environ.get("LLMGUARD_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")
SLOTS = {"prefork": 4, "threads": 8, "gevent": 8, "solo": 1}
START_S = 60.0
CEILING = 16
PRICE = {"input": "$10/M", "output": "$100/M"}
_CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("LLMGUARD_") and not k.endswith("_API_KEY")}


@dataclass(frozen=True, slots=True)
class Result:
    """What the result back end knows of one task."""

    id: str
    name: str
    state: str
    value: Any


class Worker:
    """One `celery worker` process (and its children). Made by :meth:`Rig.worker`."""

    def __init__(
        self,
        name: str,
        pool: str,
        tasks: str,
        broker: str,
        backend: str,
        home: Path,
        environment: Mapping[str, str],
        queue: str | None = None,
        slots: int | None = None,
        visibility: int = 600,
    ) -> None:
        self.name, self.pool, self.broker, self.backend = name, pool, broker, backend
        self.log = home / f"{name}.log"
        self.queue = queue or f"rig-{name}-{uuid.uuid4().hex[:8]}"
        self.slots = slots or SLOTS[pool]
        self._tasks = tasks
        # Unacknowledged messages come back within half a second of their time, not within a hundred seconds.
        transport = {
            "visibility_timeout": visibility,
            "unacked_restore_interval": 0.5,
            "unacked_restore_throttle": 1,
        }
        self.environment = {
            **_CLEAN,
            **environment,
            "RIG_BROKER": broker,
            "RIG_BACKEND": backend,
            "RIG_QUEUE": self.queue,
            "RIG_TRANSPORT": json.dumps({} if broker.startswith("amqp") else transport),
        }
        self.app = Celery(name, broker=broker, backend=backend, set_as_current=False)
        self.redis = Redis.from_url(backend)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    # The process

    def start(self) -> None:
        """Start the process; :meth:`wait_ready` waits for it."""
        command = [sys.executable, "-m", "celery", "-A", self._tasks, "worker", "--pool", self.pool]
        command += ["--concurrency", str(self.slots), "--queues", self.queue, "--hostname", f"{self.name}@rig"]
        command += ["--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        self._began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, env=self.environment, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Until it takes tasks."""
        deadline = time.monotonic() + START_S
        while b" ready." not in self.log.read_bytes()[self._began :]:
            assert self.alive, self.tail()
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.05)

    @property
    def alive(self) -> bool:
        """Whether the main process runs."""
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 60) -> str:
        """The end of the log, for messages."""
        return f"{self.name}:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, how: int = signal.SIGTERM, timeout: float = 10.0) -> None:
        """Signal the main process, wait for its end, and kill what is left of its session."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the process and its children, at once."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)
        self.process = None

    # Its tasks

    def send(self, task: str, tag: str, *args: Any, **options: Any) -> str:
        """Enqueue a task; returns its id. A name without dots is one of the rig's module of tasks; every task but one
        with ``link_error=None`` gets an error callback."""
        name = task if "." in task else f"{self._tasks}.{task}"
        errback = Signature("rig.errback", kwargs={"tag": tag}, options={"queue": self.queue}, app=self.app)
        options.setdefault("link_error", errback)
        return str(self.app.send_task(name, args=(tag, *args), queue=self.queue, **options).id)

    def state(self, task_id: str) -> str:
        """The state of one task in the result back end."""
        return str(self.app.AsyncResult(task_id).state)

    def results(self) -> dict[str, list[Result]]:
        """All tasks that the result back end knows, by tag, also those that other tasks started."""
        keys = list(self.redis.scan_iter("celery-task-meta-*", count=10_000))
        found: dict[str, list[Result]] = {}
        for value in self.redis.mget(keys) if keys else ():
            meta = json.loads(value) if value else {}
            if meta.get("args"):
                result = Result(meta["task_id"], meta.get("name") or "", meta["status"], meta.get("result"))
                found.setdefault(str(meta["args"][0]), []).append(result)
        return found

    def states(self, tag: str) -> Counter[str]:
        """How many tasks of a tag are in which state."""
        return Counter(result.state for result in self.results().get(tag, ()))

    def depth(self) -> int:
        """Messages in the queue or not yet acknowledged (Redis), or ready in the queue (RabbitMQ)."""
        if self.broker.startswith("amqp"):
            with self.app.connection_for_write() as connection:
                return int(connection.default_channel.queue_declare(self.queue, passive=True).message_count)
        return int(self.redis.llen(self.queue)) + int(self.redis.hlen("unacked"))

    def wait_until(self, condition: Callable[[], bool], timeout: float = 30.0, what: str = "") -> None:
        """Poll until something is true."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{self.tail()}"
            time.sleep(0.05)

    def wait_done(self, *tags: str, timeout: float = 30.0) -> bool:
        """Until every known task of these tags has ended and the queue stays empty; False when that takes longer."""
        deadline, calm = time.monotonic() + timeout, 0
        while calm < 3 and time.monotonic() < deadline:
            calm = calm + 1 if self.done(*tags) else 0
            time.sleep(0.2)
        return calm == 3

    def done(self, *tags: str) -> bool:
        """Whether every known task of these tags has ended and the queue is empty, at this moment."""
        if self.depth():
            return False
        found = self.results()
        return all(result.state in READY_STATES for tag in tags for result in found.get(tag, ()))

    def wait_state(self, task_id: str, state: str, timeout: float = 30.0) -> None:
        """Until a task is in that state."""
        self.wait_until(lambda: self.state(task_id) == state, timeout, f"{task_id} {state}")

    def wait_drained(self, timeout: float = 30.0) -> None:
        """Until the queue is empty and every message is acknowledged."""
        self.wait_until(lambda: self.depth() == 0, timeout, "the queue is empty")

    def serves(self, timeout: float = 10.0) -> bool:
        """Whether an ordinary task sent now succeeds."""
        tag = f"ordinary-{uuid.uuid4().hex[:8]}"
        task_id = self.send("rig.ordinary", tag)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.state(task_id) == "SUCCESS":
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        """End the process and give back the queue."""
        self.kill()
        if self.broker.startswith("amqp"):
            with self.app.connection_for_write() as connection:
                connection.default_channel.queue_delete(self.queue)
        self.app.close()
        self.redis.close()


class Rig:
    """Broker, quota store, provider and the workers of one test or module. Made by :func:`rig`."""

    def __init__(
        self, home: Path, tasks: str, broker: ValkeyServer, quota: ValkeyServer, provider: PaidUpstream
    ) -> None:
        self.home, self.tasks, self.broker, self.quota, self.provider = home, tasks, broker, quota, provider
        self.config = home / "llmguard.yaml"
        self.workers: list[Worker] = []
        (home / "notes").mkdir(exist_ok=True)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the guard's configuration; what is given comes on top of the rig's own."""
        ours: dict[str, Any] = {
            "store": self.quota.tcp_url,
            "ledger": f"sqlite:///{self.home / 'ledger.db'}",
            "spool": {"path": str(self.home / "spool")},
            "providers": {
                "openai": {
                    "dialect": "openai",
                    "base_url": self.provider.server.url + "/v1",
                    "keys": ["rig"],
                    "default": True,
                    "internal": True,
                }
            },
            "prices": {"openai/*": PRICE},
        }
        # JSON is YAML.
        self.config.write_text(json.dumps(ours | dict(config)))
        self.config.chmod(0o600)

    def worker(
        self,
        pool: str,
        *,
        guarded: bool,
        name: str = "",
        beside: Worker | None = None,
        apart: bool = False,
        amqp: bool = False,
        **options: Any,
    ) -> Worker:
        """Start a worker, with a queue and a broker database of its own unless it is to work ``beside`` another.

        ``apart``: its trips, budgets and ledger are not those of other queues. ``options``: ``slots``, ``visibility``
        (seconds until the broker delivers again what is not acknowledged).
        """
        number = self.workers.index(beside) if beside else len(self.workers)
        database = _database(self.broker, number)
        environment = {
            "RIG_HOME": str(self.home),
            "RIG_PROVIDER": self.provider.server.url + "/v1",
            "RIG_GUARDED": "1" if guarded else "0",
            "LLMGUARD_CONFIG": str(self.config),
        }
        if apart:
            environment["LLMGUARD_STORE"] = _database(self.quota, number)
            environment["LLMGUARD_LEDGER"] = f"sqlite:///{self.home / f'ledger-{number}.db'}"
            environment["LLMGUARD_SPOOL__PATH"] = str(self.home / f"spool-{number}")
        name = name or f"{pool}-{'guarded' if guarded else 'stock'}-{len(self.workers)}"
        where = AMQP if amqp else database
        queue = beside.queue if beside else None
        started = Worker(name, pool, self.tasks, where, database, self.home, environment, queue, **options)
        self.workers.append(started)
        return started

    def wait_ready(self) -> None:
        """Until every worker takes tasks."""
        for worker in self.workers:
            worker.wait_ready()

    def notes(self, tag: str) -> Counter[str]:
        """What tasks of a tag noted, counted."""
        path = self.home / "notes" / tag
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def llmguard(self, *arguments: str, worker: Worker | None = None) -> Any:
        """Run an `llmguard` command as the operator of ``worker``; returns what it prints with `--json`."""
        command = [sys.executable, "-m", "llmguard", *arguments, "--json", "--config", str(self.config)]
        environment = worker.environment if worker else _CLEAN
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def silent(self, seconds: float) -> dict[str, int]:
        """What was paid, by tag, while nothing should be."""
        before = self.provider.tags()
        time.sleep(seconds)
        return {tag: now - before.get(tag, 0) for tag, now in self.provider.tags().items() if now != before.get(tag, 0)}


def _database(server: ValkeyServer, number: int) -> str:
    return server.tcp_url.removesuffix("/0") + f"/{number}"


@contextmanager
def rig(home: Path, tasks: str, *, config: Mapping[str, Any] | None = None, ceiling: int = CEILING) -> Iterator[Rig]:
    """A broker, a quota store and a provider, without workers yet. ``tasks`` is the module that workers load."""
    with (
        ValkeyServer(databases="64") as broker,
        ValkeyServer(databases="64") as quota,
        paid_upstream(home / "mains", ceiling) as provider,
    ):
        made = Rig(home, tasks, broker, quota, provider)
        made.configure(config or {})
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.kill()
            for worker in made.workers:
                worker.close()


def rabbitmq_missing() -> str | None:
    """Why there is no RabbitMQ to test with; None where there is one."""
    where = urlsplit(AMQP)
    try:
        socket.create_connection((where.hostname or "127.0.0.1", where.port or 5672), timeout=2).close()
    except OSError as error:
        return f"no RabbitMQ at {where.hostname}:{where.port} (LLMGUARD_TEST_AMQP): {error}"
    return None
