"""Looks after the bodies that run in this process: those that run for too long, and those that do not end when told.

A body that was aborted and runs on pays nothing any more, but holds its slot. It is helped to its end in steps: the
tasks of its event loop are cancelled, the abort is raised in its thread or greenlet, and last, where the process is its
alone (prefork), that is killed. A loop with a bare ``except:`` on a thread cannot be ended from outside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Final

from llmguard.core.runaway import Execution
from llmguard.integrations.celery.owners import Owner

logger = logging.getLogger(__name__)

PERIOD: Final = 1.0
"""Seconds between two looks."""

CANCEL_AFTER: Final = 2.0
RAISE_AFTER: Final = 4.0
KILL_AFTER: Final = 20.0
"""Seconds since an abort was first seen."""


class Body:
    """One body that runs here. ``overdue`` is called, once, when it still runs at ``due`` (monotonic seconds; None: as
    long as it likes), ``entered`` once the store knows of it. ``alone`` says that this process runs nothing else."""

    def __init__(
        self,
        execution: Execution,
        owner: Owner,
        *,
        entered: Callable[[], None],
        overdue: Callable[[], None],
        due: float | None,
        alone: bool,
    ) -> None:
        self.execution = execution
        self.owner = owner
        self._entered: Callable[[], None] | None = entered
        self._overdue: Callable[[], None] | None = overdue
        self._due = due
        self._alone = alone
        self._seen: float | None = None
        self._cancelled = False

    def look(self, now: float) -> None:
        """Do what is due at ``now`` (monotonic seconds)."""
        if self._entered is not None and self.execution.entered:
            self._entered()
            self._entered = None
        if self._overdue is not None and self._due is not None and now >= self._due:
            self._overdue()
            self._overdue = None
        if self.execution.aborted and not self.execution.ended:
            self._press(now)

    def _press(self, now: float) -> None:
        if self._seen is None:
            self._seen = now
        waited = now - self._seen
        if self._alone and waited >= KILL_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        if waited >= RAISE_AFTER:
            self.owner.abort()
        elif waited >= CANCEL_AFTER and not self._cancelled:
            self._cancelled = True
            self._cancel()

    def _cancel(self) -> None:
        """Cancel whatever runs in the body's own loop; in the loops of others only what was told."""
        own = set(self.owner.loops())
        for loop in own:
            _soon(loop, partial(_cancel_all, loop))
        for task in list(self.execution.told):
            if task.get_loop() not in own:
                _soon(task.get_loop(), task.cancel)


class Watch:
    """Looks at the bodies of one process once a second, while there are any."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._bodies: set[Body] = set()
        self._some = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, body: Body) -> None:
        """Look after a body from now on."""
        self._bodies.add(body)
        if self._thread is None:
            self._start()
        if not self._some.is_set():
            self._some.set()

    def end(self, body: Body) -> None:
        """The body is over."""
        self._bodies.discard(body)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_on, name="llmguard-bodies", daemon=True)
                # Outside of every context: it works for nobody.
                Context().run(self._thread.start)

    def _look_on(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            if self._bodies:
                self._some.set()
            for body in list(self._bodies):
                _look(body)
            time.sleep(PERIOD)


_watches: list[Watch] = []


def watch() -> Watch:
    """That of this process."""
    if not _watches or _watches[0].pid != os.getpid():
        _watches[:] = [Watch()]
    return _watches[0]


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _look(body: Body) -> None:
    try:
        body.look(time.monotonic())
    except Exception:
        # Whoever looks after all bodies outlives a defect in one look.
        logger.exception("a defect in looking after %s", body.execution.name)


def _soon(loop: asyncio.AbstractEventLoop, do: Callable[[], Any]) -> None:
    try:
        loop.call_soon_threadsafe(do)
    except RuntimeError:
        pass  # it has been closed meanwhile
