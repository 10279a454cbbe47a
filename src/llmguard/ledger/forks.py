"""What must be forgotten in a forked child: threads, locks, connections and files that belong to the parent."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

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


def _after_fork() -> None:
    for forgetter in list(_forgetters):
        forgetter()


os.register_at_fork(after_in_child=_after_fork)
