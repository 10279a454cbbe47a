"""A thread that does several pieces of work over and over, each in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)

SOON = 0.02
"""Seconds after which hurried work is done: long enough for the next question to take moves along."""


class Rounds(Generic[W]):
    """Does each of ``works`` every so many seconds, the first of them at once. ``do`` does one, and must not raise.

    The thread is a daemon: :meth:`stop` waits for it no longer than it is told to.
    """

    def __init__(self, name: str, works: Mapping[W, float], do: Callable[[W], None]) -> None:
        self._works = works
        self._do = do
        now = time.monotonic()
        self._due = {work: now + seconds for work, seconds in works.items()}
        self._due[next(iter(works))] = now
        self._hurried: W | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._last: W | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def hurry(self, work: W) -> None:
        """Do ``work`` in 20 ms at the latest."""
        if self._hurried is None:
            self._hurried = work
            self._wake.set()

    def stop(self, timeout: float, last: W | None = None) -> bool:
        """End the thread, after it has done ``last``; False where that takes longer than ``timeout`` seconds."""
        self._last = last
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            work = min(self._due, key=self._due.__getitem__)
            wait = self._due[work] - time.monotonic()
            if wait > 0 and self._wake.wait(wait):
                self._wake.clear()
                self._hasten()
            else:
                if work == self._hurried:
                    self._hurried = None  # before it is done, since what comes meanwhile may be too late for it
                self._due[work] = time.monotonic() + self._works[work]
                self._do(work)
        if self._last is not None:
            self._do(self._last)

    def _hasten(self) -> None:
        """Once for all who hurry it: waking a thread costs more than what most of them do."""
        work = self._hurried
        if work is not None:
            self._due[work] = min(self._due[work], time.monotonic() + SOON)
