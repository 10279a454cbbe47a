"""Raising an abort in a body from outside: in the thread or the greenlet that runs it.

Neither can be undone once it was sent off, so both look once more whether the body is over: an abort that arrives later
would hit the worker itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from llmguard.errors import TaskAborted


class ThreadOwner:
    """A body on a thread of its own. What blocks in C (a sleep, a lock) hears the abort when it comes back."""

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        # Reentrant, and waited for with a limit: an abort that arrives within `release` may leave it locked.
        self._lock = threading.RLock()
        self._over = self._sent = False

    def abort(self) -> None:
        """Raise :class:`TaskAborted` in the body, if it still runs."""
        if not self._lock.acquire(timeout=1.0):
            return
        try:
            if not self._over:
                self._sent = True
                _raise_in(self.ident)
        finally:
            self._lock.release()

    def release(self) -> None:
        """The body is over: what was sent and has not arrived is intercepted. Call it on its thread, any number of
        times."""
        with self._lock:
            self._over = True
        if self._sent:
            self._intercept()

    def _intercept(self) -> None:
        # Taking it back would leave the interpreter looking for it for ever, at every step. There is room for one on a
        # thread, so this one takes the place of any that has not arrived.
        try:
            _raise_in(self.ident)
            while True:
                pass
        except TaskAborted:
            self._sent = False

    def loops(self) -> Iterator[asyncio.AbstractEventLoop]:
        """The event loops that run on this thread."""
        frame: FrameType | None = sys._current_frames().get(self.ident)
        while frame is not None:
            if frame.f_code is _RUN_FOREVER:
                yield frame.f_locals["self"]
            frame = frame.f_back


class GreenletOwner:
    """A body in a greenlet of gevent's."""

    def __init__(self, greenlet: Any, hub: Any) -> None:
        self._greenlet = greenlet
        self._hub = hub
        self._over = False

    def abort(self) -> None:
        """Raise :class:`TaskAborted` in the body, if it still runs when its hub comes to it."""
        self._hub.loop.run_callback(self._throw)

    def _throw(self) -> None:
        if not self._over and not self._greenlet.dead:
            self._greenlet.throw(TaskAborted())

    def release(self) -> None:
        """The body is over."""
        self._over = True

    def loops(self) -> Iterator[asyncio.AbstractEventLoop]:
        """Event loops and greenlets do not mix."""
        return iter(())


Owner = ThreadOwner | GreenletOwner


def owner() -> Owner:
    """Whatever runs the code that calls this."""
    gevent = sys.modules.get("gevent")
    if gevent is not None:
        current = gevent.getcurrent()
        if isinstance(current, gevent.Greenlet):
            return GreenletOwner(current, gevent.get_hub())
    return ThreadOwner()


_RUN_FOREVER = asyncio.BaseEventLoop.run_forever.__code__


def _raise_in(ident: int) -> None:
    """Raise in a thread, at its next step in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TaskAborted))
