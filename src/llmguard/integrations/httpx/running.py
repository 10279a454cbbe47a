"""Calls whose reply is on its way: what is read is metered, and each call ends once, whoever ends it.

A stream that its caller leaves with `break` is closed by the garbage collector, or by nobody while the caller keeps it.
The collector may strike while a lock of ours is held, so whatever closes a call unfinished only hands it to the sweep:
a thread that closes what was left and what has lain idle for ten minutes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from llmguard.core.decision import Refuse
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.ports import Reader
from llmguard.forward.large import LargeReply
from llmguard.runtime.ids import now_ms
from llmguard.runtime.process import ProcessService

log = logging.getLogger("llmguard.inside")

IDLE_SECONDS = 600.0
"""How long a caller may do nothing with a stream before it counts as left: well below the quarter of an hour for which
the store keeps what a silent call might still cost."""

LOOK_SECONDS = 5.0


class Running:
    """A call between its reply's head and its end. ``ended`` is called once, after its record is written."""

    def __init__(self, service: ProcessService, x: Exchange, tap: Tap, ended: Callable[[Exchange], None]) -> None:
        self.x = x
        self.service = service
        self.tap = tap
        self.given_up = False
        self.drop: Callable[[], None] = lambda: None
        """Closes the provider's connection from another thread."""
        self._ended = ended
        self._over = False
        self._lock = threading.Lock()
        self._idle_since: float | None = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the call has its record."""
        return self._over

    def end(self, ending: Ending) -> None:
        """Put the call on record, once."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self.service.close(self.x, ending)
        self._ended(self.x)

    def busy(self) -> bool:
        """The caller asks for more; False where the call was given up meanwhile."""
        with self._lock:
            self._idle_since = None
            return not self.given_up

    def idle(self) -> None:
        """The caller has something to do with what it got."""
        self._idle_since = time.monotonic()

    def give_up(self, before: float) -> bool:
        """True, once, when the caller has been idle since ``before`` or longer."""
        with self._lock:
            since = self._idle_since
            if self._over or self.given_up or since is None or since > before:
                return False
            self.given_up = True
            return True


class Tap(Protocol):
    """Reads along. What :meth:`feed` and :meth:`finish` return goes on to the caller."""

    def feed(self, running: Running, data: bytes) -> bytes:
        """The next bytes as the provider sent them."""
        ...

    def finish(self, running: Running) -> bytes:
        """The provider has sent everything."""
        ...

    def cut(self, refusal: Refuse, event_id: str) -> bytes:
        """Bytes that end the reply correctly where it is cut."""
        ...


class EventTap:
    """A stream of events: the record is written before the terminal event is handed on."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def feed(self, running: Running, data: bytes) -> bytes:
        """See :class:`Tap`."""
        out = running.x.feed(data, now_ms())
        if self._reader.finished:
            running.end(Ending.DONE)
            out += self._reader.flush()
        return out

    def finish(self, running: Running) -> bytes:
        """See :class:`Tap`."""
        running.end(Ending.DONE)
        return self._reader.flush()

    def cut(self, refusal: Refuse, event_id: str) -> bytes:
        """See :class:`Tap`."""
        return self._reader.cut(refusal, event_id)


class LargeTap:
    """A whole reply too large to hold flows on, one piece behind, so that its record is written before its end."""

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type
        self._seen = LargeReply()
        self._behind = b""

    def feed(self, running: Running, data: bytes) -> bytes:
        """See :class:`Tap`."""
        self._seen.feed(data)
        out, self._behind = self._behind, data
        return out

    def finish(self, running: Running) -> bytes:
        """See :class:`Tap`."""
        x = running.x
        if not running.over:
            self._seen.end(x, self._content_type, now_ms())
        running.end(Ending.DONE)
        return self._behind

    def cut(self, refusal: Refuse, event_id: str) -> bytes:
        """Such replies are never cut."""
        return b""


class Sweep:
    """Closes calls of one process that their callers have left, for as long as its ``service`` runs."""

    def __init__(self, service: ProcessService) -> None:
        self._service = service
        self._watched: dict[str, Running] = {}
        # A SimpleQueue, because its `put` may come in the midst of anything, its own `put` included.
        self._left: SimpleQueue[tuple[Running, bool]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def watch(self, running: Running) -> None:
        """From now on this call is looked after, until it ends."""
        self._watched[running.x.event_id] = running
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="llmguard-streams", daemon=True)
                    self._thread.start()

    def forget(self, x: Exchange) -> None:
        """A call has ended."""
        self._watched.pop(x.event_id, None)

    def leave(self, running: Running, *, drop: bool = False) -> None:
        """The caller wants no more of this call; ``drop`` its connection, too. Takes no lock and waits for nothing."""
        if not running.over:
            self._left.put((running, drop))

    def _run(self) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while not self._service.stopped:
            try:
                running, drop = self._left.get(timeout=max(look - time.monotonic(), 0))
                self._close(running, drop=drop)
            except Empty:
                look = time.monotonic() + LOOK_SECONDS
                self._look(time.monotonic() - IDLE_SECONDS)

    def _look(self, before: float) -> None:
        for running in list(self._watched.values()):
            if running.give_up(before):
                self._close(running, drop=True)

    def _close(self, running: Running, *, drop: bool) -> None:
        try:
            running.end(Ending.CALLER_GONE)
            if drop:
                running.drop()
        except Exception:  # the thread outlives whatever a client's connection does when it is closed
            log.exception("call %s was left, and closing it failed", running.x.event_id)


def describe(headers: Any, x: Exchange) -> None:
    """Put what the guard has to say about an admitted call into the reply's headers."""
    headers["x-llmguard-request-id"] = x.event_id
    headers["x-llmguard-target"] = f"{x.target.provider}/{x.target.model}".encode("latin-1", "replace").decode(
        "latin-1"
    )
    for name, value in x.headers:
        if name.startswith(b"x-llmguard-"):
            headers[name.decode("ascii")] = value.decode("latin-1")
