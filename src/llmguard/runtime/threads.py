"""Carries the caller into plain threads and thread pools, which context variables do not reach by themselves.

Both `Thread.start` and `ThreadPoolExecutor.submit` are wrapped: without the first a thread calls for nobody, without
the second a pool's thread calls for whoever happened to start it. The wrappers stay where others have wrapped them
again, and do nothing there after :func:`remove`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from threading import Thread
from typing import Any, Final

from llmguard.runtime.context import Place, place

_users: set[str] = set()
_start: Final = Thread.start
_submit: Final[Any] = ThreadPoolExecutor.submit


def install(user: str) -> None:
    """Begin to carry, for ``user`` (a name); again for the same one changes nothing."""
    if not _users:
        if Thread.start is _start:
            Thread.start = _carrying_start  # type: ignore[method-assign]
        if ThreadPoolExecutor.submit is _submit:
            ThreadPoolExecutor.submit = _carrying_submit  # type: ignore[method-assign, assignment]
    _users.add(user)


def remove(user: str) -> None:
    """Carry no longer for ``user``; the last one takes the wrappers off."""
    _users.discard(user)
    if not _users:
        if Thread.start is _carrying_start:
            Thread.start = _start  # type: ignore[method-assign]
        if ThreadPoolExecutor.submit is _carrying_submit:
            ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign]


@wraps(_start)
def _carrying_start(self: Thread) -> None:
    here = place()
    if not _users or here.empty:
        return _start(self)
    run = self.run
    # On the instance, because subclasses have a `run` of their own.
    self.run = partial(_run, self, here, run)  # type: ignore[method-assign]
    try:
        _start(self)
    except BaseException:
        self.__dict__.pop("run", None)
        raise


def _run(thread: Thread, here: Place, run: Callable[[], None]) -> None:
    thread.__dict__.pop("run", None)  # the thread would keep itself alive by it
    here.run(run)


@wraps(_submit)
def _carrying_submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    # Also from nowhere in particular: the pool's thread may have been started from within a scope.
    carried = partial(place().run, fn) if _users else fn
    future: Future[Any] = _submit(self, carried, *args, **kwargs)
    return future
