"""Pieces of work that one thread does over and over, each in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llmguard.runtime.rounds import Rounds


class Worker:
    """Does works by name, and keeps which and when."""

    def __init__(self) -> None:
        self.done: list[tuple[str, float]] = []
        self.begun = threading.Condition()
        self.before: Callable[[str], object] = lambda work: None

    def __call__(self, work: str) -> None:
        self.before(work)
        with self.begun:
            self.done.append((work, time.monotonic()))
            self.begun.notify_all()

    def count(self, work: str) -> int:
        return sum(name == work for name, _ in self.done)

    def wait_for(self, work: str, times: int) -> None:
        with self.begun:
            assert self.begun.wait_for(lambda: self.count(work) >= times, 10)


def test_the_first_work_is_done_at_once_and_the_others_in_their_time() -> None:
    worker = Worker()
    rounds = Rounds("test", {"often": 0.01, "sometimes": 0.05, "never": 600.0}, worker)
    start = time.monotonic()
    rounds.start()
    worker.wait_for("sometimes", 2)
    assert rounds.stop(10)
    assert worker.done[0][0] == "often"
    assert worker.done[0][1] - start < 0.05 + 5
    assert worker.count("often") > worker.count("sometimes")
    assert worker.count("never") == 0


def test_hurried_work_is_done_soon_and_once_for_many_that_hurry() -> None:
    worker = Worker()
    rounds = Rounds("test", {"first": 600.0, "flush": 600.0}, worker)
    rounds.start()
    worker.wait_for("first", 1)
    for _ in range(1_000):
        rounds.hurry("flush")
    worker.wait_for("flush", 1)
    again = time.monotonic()
    rounds.hurry("flush")
    worker.wait_for("flush", 2)
    assert worker.done[-1][1] - again >= 0.015
    assert rounds.stop(10)
    assert worker.count("flush") in (2, 3)


def test_the_last_work_is_done_at_the_end() -> None:
    worker = Worker()
    rounds = Rounds("test", {"first": 600.0, "counts": 600.0}, worker)
    rounds.start()
    worker.wait_for("first", 1)
    assert rounds.stop(10, last="counts") is True
    assert [work for work, _ in worker.done] == ["first", "counts"]


def test_work_that_hangs_holds_up_the_end_no_longer_than_it_may() -> None:
    worker, go = Worker(), threading.Event()
    worker.before = lambda work: go.wait(10)
    rounds = Rounds("test", {"hangs": 600.0}, worker)
    rounds.start()
    start = time.monotonic()
    assert rounds.stop(0.05) is False
    assert time.monotonic() - start < 5
    go.set()
    assert rounds.stop(10) is True
