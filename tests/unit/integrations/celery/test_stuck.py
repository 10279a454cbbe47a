"""Bodies that do not end: looked after in steps, each at its time; an abort from outside never hits anyone else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmguard.core.runaway import Execution, TaskPolicy
from llmguard.errors import TaskAborted
from llmguard.integrations.celery import stuck
from llmguard.integrations.celery.owners import ThreadOwner, owner
from llmguard.integrations.celery.stuck import CANCEL_AFTER, KILL_AFTER, RAISE_AFTER, Body, Watch, watch


class Recorder:
    """An owner that notes what is done to it."""

    def __init__(self) -> None:
        self.aborts = 0

    def abort(self) -> None:
        self.aborts += 1

    def loops(self) -> Iterator[Any]:
        return iter(())


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    signals: list[int] = []
    monkeypatch.setattr(stuck.os, "kill", lambda _pid, number: signals.append(number))
    return signals


def execution() -> Execution:
    return Execution(TaskPolicy(), "tasks.summarise", "t-1", "task:t-1:0", "run", "tree")


def body(*, alone: bool = False, due: float | None = None, **calls: Any) -> tuple[Body, Recorder]:
    recorder: Any = Recorder()
    given = {"entered": lambda: None, "overdue": lambda: None} | calls
    return Body(execution(), recorder, due=due, alone=alone, **given), recorder


def test_a_body_that_was_not_aborted_is_left_alone(killed: list[int]) -> None:
    looked, owned = body(alone=True)
    for now in (0.0, 100.0, 10_000.0):
        looked.look(now)
    assert (owned.aborts, killed) == (0, [])


def test_an_aborted_body_is_pressed_in_steps(killed: list[int]) -> None:
    looked, owned = body(alone=True)
    looked.execution.aborted = True
    looked.look(50.0)
    looked.look(50.0 + CANCEL_AFTER)
    assert (owned.aborts, killed) == (0, [])
    looked.look(50.0 + RAISE_AFTER)
    looked.look(51.0 + RAISE_AFTER)
    assert (owned.aborts, killed) == (2, [])
    looked.look(50.0 + KILL_AFTER)
    assert killed == [9]


def test_a_process_that_runs_others_too_is_not_killed(killed: list[int]) -> None:
    looked, _ = body(alone=False)
    looked.execution.aborted = True
    looked.look(0.0)
    looked.look(10 * KILL_AFTER)
    assert killed == []


def test_a_body_that_ended_is_not_pressed(killed: list[int]) -> None:
    looked, owned = body(alone=True)
    looked.execution.aborted = True
    looked.look(0.0)
    looked.execution.ended = True
    looked.look(10 * KILL_AFTER)
    assert (owned.aborts, killed) == (0, [])


def test_the_store_is_told_of_a_run_that_it_knows_and_time_is_up_once() -> None:
    said: list[str] = []
    looked, _ = body(due=0.0, entered=lambda: said.append("entered"), overdue=lambda: said.append("overdue"))
    looked.look(float("inf"))
    looked.execution.entered = True
    looked.look(float("inf"))
    looked.look(float("inf"))
    assert said == ["overdue", "entered"]


# ---------------------------------------------------------------------- threads


def test_an_abort_reaches_the_thread_that_runs_the_body() -> None:
    owners: list[ThreadOwner] = []
    outcome: list[str] = []
    begun = threading.Event()

    def run() -> None:
        mine = owner()
        assert isinstance(mine, ThreadOwner)
        owners.append(mine)
        begun.set()
        try:
            while True:
                begun.wait(0.001)
        except TaskAborted:
            outcome.append("aborted")
        finally:
            mine.release()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    owners[0].abort()
    thread.join(5)
    assert outcome == ["aborted"]


def test_an_abort_never_reaches_a_thread_whose_body_is_over() -> None:
    mine = ThreadOwner()
    mine.release()
    mine.abort()
    assert sum(range(100_000)) == 4_999_950_000


def test_an_abort_that_is_on_its_way_is_taken_back() -> None:
    """From another thread, so that it is pending here: the interpreter looks for it now and then only."""
    for _ in range(200):
        mine = ThreadOwner()
        try:
            thread = threading.Thread(target=mine.abort)
            thread.start()
            thread.join()
        except TaskAborted:
            pass
        finally:
            mine.release()
    assert sum(range(100_000)) == 4_999_950_000


def test_the_tasks_of_the_bodys_own_loop_are_cancelled() -> None:
    outcome: list[str] = []
    bodies: list[Body] = []
    running = threading.Event()

    async def everything() -> None:
        running.set()
        while True:
            await asyncio.gather(asyncio.sleep(30), return_exceptions=True)

    def run() -> None:
        mine = ThreadOwner()
        found = Body(execution(), mine, entered=lambda: None, overdue=lambda: None, due=None, alone=False)
        found.execution.aborted = True
        bodies.append(found)
        try:
            asyncio.run(everything())
        except asyncio.CancelledError:
            outcome.append("cancelled")
        finally:
            mine.release()

    thread = threading.Thread(target=run)
    thread.start()
    assert running.wait(5)
    bodies[0].look(0.0)
    bodies[0].look(CANCEL_AFTER)
    thread.join(5)
    assert outcome == ["cancelled"]


def test_in_a_loop_of_others_only_what_was_told_is_cancelled() -> None:
    async def main() -> tuple[bool, bool]:
        mine, theirs = asyncio.create_task(asyncio.sleep(30)), asyncio.create_task(asyncio.sleep(30))
        looked, _ = body()
        looked.execution.aborted = True
        looked.execution.told.add(mine)
        looked.look(0.0)
        looked.look(CANCEL_AFTER)
        await asyncio.wait([mine], timeout=5)
        outcome = mine.cancelled(), theirs.cancelled()
        theirs.cancel()
        return outcome

    assert asyncio.run(main()) == (True, False)


# ---------------------------------------------------------------------- greenlets


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent
from llmguard.errors import TaskAborted
from llmguard.integrations.celery.owners import GreenletOwner, owner

ended, stray = [], []

def run(number):
    mine = owner()
    assert isinstance(mine, GreenletOwner)
    gevent.spawn(mine.abort)
    try:
        gevent.sleep(0 if number % 2 else 30)
    except TaskAborted:
        ended.append(number)
    finally:
        mine.release()
    try:
        gevent.sleep(0.01)
    except TaskAborted:
        stray.append(number)

gevent.joinall([gevent.spawn(run, number) for number in range(150)], timeout=20)
print(sum(number % 2 == 0 for number in ended), len(stray))
"""


def test_greenlets_hear_their_abort_and_no_other() -> None:
    """In a process of its own, which gevent has patched."""
    found = subprocess.run([sys.executable, "-c", GREENLETS], capture_output=True, text=True, timeout=60)
    assert found.stdout == "75 0\n", found.stderr


# ---------------------------------------------------------------------- the watch


def test_a_watch_looks_at_bodies_for_as_long_as_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "PERIOD", 0.005)
    looked = threading.Semaphore(0)
    entered = threading.Event()
    kept, _ = body(entered=entered.set)
    monkeypatch.setattr(kept, "look", lambda _: looked.release())
    broken, _ = body()
    monkeypatch.setattr(broken, "look", lambda _: 1 / 0)
    mine = Watch()
    mine.begin(broken)
    mine.begin(kept)
    for _ in range(3):
        assert looked.acquire(timeout=5)
    mine.end(kept)
    mine.end(broken)


def test_a_process_has_one_watch() -> None:
    assert watch() is watch()
