"""What must be forgotten in a forked child: threads, locks, connections and files that belong to the parent; and what
must not be open while a process forks."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

_PATIENCE_S = 10.0
"""How long a fork waits for running transactions; each waits for another process's lock for five seconds at most."""

_forgetters: weakref.WeakSet[Forgetter] = weakref.WeakSet()


class Forgetter:
    """Calls ``forget`` in every forked child for as long as its owner keeps it.

    ``forget`` must be a bound method of the owner; it is held weakly.
    """

    __slots__ = ("__weakref__", "_forget")

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget = weakref.WeakMethod(forget)
        _forgetters.add(self)

    def __call__(self) -> None:
        forget = self._forget()
        if forget is not None:
            forget()


class Gate:
    """Keeps forks and transactions apart. A transaction is entered with ``with``; a fork waits until none runs, has
    ``close`` called to give up all connections, and lets none begin until it is over.

    SQLite keeps its locks in the process, so a child that inherits an open connection believes in locks that it does
    not hold, or that nobody will ever give back (https://www.sqlite.org/howtocorrupt.html, section 2.6).
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._quiet = threading.Condition()
        self._inside = 0
        os.register_at_fork(before=self._shut, after_in_parent=self._open, after_in_child=self._renew)

    def __enter__(self) -> None:
        with self._quiet:
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._quiet:
            self._inside -= 1
            self._quiet.notify_all()

    def _shut(self) -> None:
        self._quiet.acquire()
        self._quiet.wait_for(lambda: not self._inside, _PATIENCE_S)
        self._close()

    def _open(self) -> None:
        self._quiet.release()

    def _renew(self) -> None:
        self._quiet = threading.Condition()
        self._inside = 0


def _after_fork() -> None:
    for forgetter in list(_forgetters):
        forgetter()


os.register_at_fork(after_in_child=_after_fork)
