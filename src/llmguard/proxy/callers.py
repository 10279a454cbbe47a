"""Watches the callers of running requests: who hung up, and who is too slow.

One sweep serves all deadlines; a reader of `receive` is started only for requests that last, because most are over
before anybody could hang up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

SWEEP = 0.1
"""Seconds between two sweeps, and the age at which a request's caller begins to be watched."""


class Caller:
    """One request in progress. ``gone`` is why its task was cancelled: `hung_up` or `too_slow`."""

    __slots__ = ("_receive", "_task", "_watcher", "answered", "deadline", "gone", "since")

    def __init__(self, receive: Receive, deadline: float) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self.since = time.monotonic()
        self.deadline = self.since + deadline
        self.gone: str | None = None
        self.answered = False

    def extend(self, seconds: float) -> None:
        """The request made progress: it has this long for the next step."""
        self.deadline = time.monotonic() + seconds

    def watch(self) -> None:
        """Begin to listen for the caller hanging up. The body must have been read."""
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._listen())

    def cancel(self, why: str) -> None:
        """Stop the request."""
        if self.gone is None:
            self.gone = why
            assert self._task is not None
            self._task.cancel()

    def leave(self) -> None:
        """The request is over."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cancel("hung_up")


C = TypeVar("C", bound=Caller)


class Callers:
    """All requests in progress, oldest first."""

    def __init__(self) -> None:
        self._all: dict[Caller, None] = {}
        self._listening: set[Caller] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, receive: Receive, deadline: float) -> Caller:
        """A request begins; it is given ``deadline`` seconds for its first step."""
        return self.add(Caller(receive, deadline))

    def add(self, caller: C) -> C:
        """The same for a caller made elsewhere."""
        self._all[caller] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)
        return caller

    def listen(self, caller: Caller) -> None:
        """The request's body has been read, so its caller may be watched from now on."""
        self._listening.add(caller)

    def leave(self, caller: Caller) -> None:
        """The request is over."""
        caller.leave()
        self._all.pop(caller, None)
        self._listening.discard(caller)

    def __len__(self) -> int:
        return len(self._all)

    def _sweep(self) -> None:
        now = time.monotonic()
        for caller in list(self._all):
            if now > caller.deadline:
                caller.cancel("too_slow")
        for caller in [c for c in self._listening if now - c.since >= SWEEP]:
            self._listening.discard(caller)
            caller.watch()
        self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep) if self._all else None
