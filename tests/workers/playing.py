"""Plays many rows at once on real workers, and keeps what became of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.celery_rig import CEILING, Rig, Worker
from tests.support.celery_upstream import Behaviour

POOLS = ("prefork", "threads", "gevent", "solo")
PREFORK = ("prefork", "rabbitmq")
"""Where a task can lose its process and leave the worker alive."""
PLACES = (*POOLS, "rabbitmq")
"""Pools on Redis, and prefork on RabbitMQ."""
_TWINS = {"gevent": "threads", "solo": "solo"}
"""Workers of these pools do not take back what they have not acknowledged, but another one of the queue does."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to misbehave.

    ``paid``: at most so many calls when guarded, and one more for each further slot of the pool where ``parallel``;
    ``stock``: at least so many without the guard. ``sends`` distinct tasks start it; ``state`` is how each ends.
    ``tree``: the tasks that fail are others than those that were sent. ``visibility``: a worker of its own, where the
    broker delivers again after so many seconds.
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
    visibility: int | None = None
    behaviour: Behaviour | None = None


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


def play(rig: Rig, cases: Iterable[tuple[str, Row]], *, guarded: bool, timeout: float, silence: float = 0.0) -> Played:
    """Send every row, wait until all have ended (``timeout`` seconds), and listen to the ``silence``."""
    cases = list(cases)
    workers = _start(rig, cases, guarded)
    rig.wait_ready()
    played = Played()
    for place, row in cases:
        tag = _tag(guarded, place, row)
        if row.behaviour is not None:
            rig.provider.behave(tag, row.behaviour)
        worker = workers[place, row.visibility]
        ids = [worker.send(row.task, tag, *row.arguments) for _ in range(row.sends)]
        played.outcomes[place, row.task] = Outcome(worker, ids)
    _await(rig, cases, workers, guarded, timeout)
    later = rig.silent(silence)
    for place, row in cases:
        _look(rig, _tag(guarded, place, row), played.outcomes[place, row.task], later)
    for (place, _), worker in workers.items():
        played.serving[place] = played.serving.get(place, True) and worker.alive and worker.serves()
    return played


def _start(rig: Rig, cases: list[tuple[str, Row]], guarded: bool) -> dict[tuple[str, int | None], Worker]:
    workers = {}
    for place, visibility in sorted({(place, row.visibility or 0) for place, row in cases}):
        pool = "prefork" if place == "rabbitmq" else place
        options: dict[str, Any] = {"visibility": visibility} if visibility else {}
        worker = rig.worker(pool, guarded=guarded, own_quota=True, amqp=place == "rabbitmq", **options)
        if visibility and pool in _TWINS:
            rig.worker(_TWINS[pool], guarded=guarded, beside=worker, own_quota=True, **options)
        workers[place, visibility or None] = worker
    return workers


def _await(
    rig: Rig, cases: list[tuple[str, Row]], workers: dict[tuple[str, int | None], Worker], guarded: bool, timeout: float
) -> None:
    """Guarded rows must end; of stock rows it is enough to have seen what they pay."""
    deadline = time.monotonic() + timeout
    if not guarded:
        while time.monotonic() < deadline:
            if all(rig.provider.paid(_tag(guarded, *case)) >= case[1].stock for case in cases):
                break
            time.sleep(0.1)
        return
    for key, worker in workers.items():
        tags = [_tag(guarded, *case) for case in cases if (case[0], case[1].visibility) == key]
        worker.wait_done(*tags, timeout=deadline - time.monotonic())


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
