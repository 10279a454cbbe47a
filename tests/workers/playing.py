"""Plays many rows at once on real workers, and keeps what became of each."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.celery_rig import CEILING, Rig, Worker
from tests.support.celery_upstream import Behaviour

POOLS = ("prefork", "threads", "gevent", "solo")
PREFORK = ("prefork", "rabbitmq")
"""Where a task can lose its process and leave the worker alive: prefork on Redis, and on RabbitMQ."""
PLACES = (*POOLS, "rabbitmq")
FULL = os.environ.get("LLMGUARD_TEST_WORKERS") == "all"
"""Play everything everywhere (`make test-workers`)."""
_TWINS = {"gevent": "threads", "solo": "solo"}
"""Workers of these pools do not take back what they have not acknowledged, but another one of the queue does."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to misbehave.

    ``paid``: at most so many calls when guarded, and one more for each further slot of the pool where ``parallel``;
    ``stock``: at least so many without the guard. ``sends`` distinct tasks start it; ``state`` is how each ends.
    ``tree``: the tasks that fail are others than those that were sent. ``alone``: on a worker of its own, and with
    ``visibility`` on one where the broker delivers again after so many seconds. ``holds``: where it may never end.
    """

    task: str
    paid: int
    stock: int = CEILING
    state: str = "FAILURE"
    places: tuple[str, ...] = PLACES
    sends: int = 1
    tree: bool = False
    parallel: bool = False
    arguments: tuple[Any, ...] = ()
    alone: bool = False
    visibility: int | None = None
    holds: tuple[str, ...] = ()
    behaviour: Behaviour | None = None


Case = tuple[str, Row]
"""A row and where it is played."""


@dataclass(slots=True)
class Outcome:
    """What became of one row: calls paid, and paid in the silence afterwards; states of the tasks that were sent and of
    all tasks of the row; notes that they left; whether all ended, and the queue was empty."""

    worker: Worker
    ids: list[str]
    paid: int = 0
    later: int = 0
    ended: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Played:
    """The outcomes by place and task, and whether the workers of each place lived and served at the end."""

    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    serving: dict[str, bool] = field(default_factory=dict)


def play(
    rig: Rig,
    cases: Iterable[Case],
    *,
    guarded: bool,
    timeout: float,
    silence: float = 0.0,
    turns: Iterable[tuple[str, ...]] = (PREFORK, POOLS[1:]),
) -> Played:
    """Send every row, wait until all have ended (``timeout`` seconds), and listen to the ``silence``.

    First where processes are the slots, then where they are not, if ``turns`` says no other: very many rows at once on
    two cores would stand still for so long that the guard takes its store for gone, which is another test's matter.
    """
    played, workers = Played(), {}
    wanted = list(cases)
    for turn in turns:
        some = _start(rig, [case for case in wanted if case[0] in turn], guarded)
        _send(rig, some, played, guarded=guarded)
        deadline = time.monotonic() + timeout
        if guarded:
            _await_ends(rig, some, deadline)
        else:
            _await_bills(rig, some, deadline)
        workers |= some
    later = rig.silent(silence)
    for place, row in workers:
        _look(rig, _tag(guarded, place, row), played.outcomes[place, row.task], later)
    for place, worker in {(place, worker) for (place, row), worker in workers.items() if not row.alone}:
        played.serving[place] = played.serving.get(place, True) and worker.alive and worker.serves()
    return played


def _send(rig: Rig, workers: dict[Case, Worker], played: Played, *, guarded: bool) -> None:
    rig.wait_ready()
    for (place, row), worker in workers.items():
        tag = _tag(guarded, place, row)
        if row.behaviour is not None:
            rig.provider.behave(tag, row.behaviour)
        ids = [worker.send(row.task, tag, *row.arguments) for _ in range(row.sends)]
        played.outcomes[place, row.task] = Outcome(worker, ids)


def _start(rig: Rig, cases: Iterable[Case], guarded: bool) -> dict[Case, Worker]:
    """A worker for each place, and one for each row that wants its own."""
    shared: dict[tuple[str, str], Worker] = {}
    workers = {}
    for place, row in cases:
        key = (place, row.task if row.alone else "")
        if key not in shared:
            pool = "prefork" if place == "rabbitmq" else place
            options: dict[str, Any] = {"visibility": row.visibility} if row.visibility else {}
            worker = rig.worker(pool, guarded=guarded, apart=True, amqp=place == "rabbitmq", **options)
            if row.visibility and pool in _TWINS:
                rig.worker(_TWINS[pool], guarded=guarded, beside=worker, apart=True, **options)
            shared[key] = worker
        workers[place, row] = shared[key]
    return workers


def _await_ends(rig: Rig, workers: dict[Case, Worker], deadline: float) -> None:
    """Until all have ended, but for those that may hold their slot: of these until they have paid all they may."""
    for worker in set(workers.values()):
        tags = [
            _tag(True, place, row) for (place, row), its in workers.items() if its is worker and place not in row.holds
        ]
        if tags:  # a worker all of whose rows may hold their slots never drains
            worker.wait_done(*tags, timeout=deadline - time.monotonic())
    holders = [(_tag(True, place, row), row.paid) for place, row in workers if place in row.holds]
    while any(rig.provider.paid(tag) < most for tag, most in holders) and time.monotonic() < deadline:
        time.sleep(0.1)


def _await_bills(rig: Rig, workers: dict[Case, Worker], deadline: float) -> None:
    """Without the guard it is enough to have seen what they pay."""
    while time.monotonic() < deadline:
        if all(rig.provider.paid(_tag(False, place, row)) >= row.stock for place, row in workers):
            return
        time.sleep(0.1)


def _look(rig: Rig, tag: str, outcome: Outcome, later: dict[str, int]) -> None:
    worker = outcome.worker
    outcome.later = later.get(tag, 0)
    outcome.paid = rig.provider.paid(tag)
    outcome.sent = Counter(worker.state(task_id) for task_id in outcome.ids)
    outcome.states = worker.states(tag)
    outcome.notes = rig.notes(tag)
    outcome.ended = worker.done(tag)


def _tag(guarded: bool, place: str, row: Row) -> str:
    return f"{'guarded' if guarded else 'stock'}-{place}-{row.task}"
