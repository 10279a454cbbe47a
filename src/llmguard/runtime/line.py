"""Work that must not make its caller wait: a bounded queue, served in order by one thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Generic, TypeVar

log = logging.getLogger("llmguard.notices")

T = TypeVar("T")


class Line(Generic[T]):
    """``serve`` is called with one item after the other. The thread begins with the first item.

    ``serve`` may wait on :attr:`stopping` between attempts; once that is set it should make no more than one.
    """

    def __init__(self, name: str, serve: Callable[[T], None], size: int = 1_000) -> None:
        self.stopping = threading.Event()
        self.dropped = 0
        """Items that found the queue full, or came after the end."""
        self._name = name
        self._serve = serve
        self._size = size
        # A SimpleQueue, because its `put` neither waits nor breaks when a signal handler comes in between.
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, item: T) -> None:
        """Queue an item; drop and count it where too many wait already. Never waits."""
        if self.stopping.is_set() or self._queue.qsize() >= self._size:
            self.dropped += 1
            return
        self._queue.put(item)
        if self._thread is None:
            self._start()

    @property
    def waiting(self) -> int:
        """How many items are queued, not counting the one being served."""
        return self._queue.qsize()

    def stop(self, seconds: float) -> bool:
        """Serve what is queued and end; False when that took longer than ``seconds``."""
        self.stopping.set()
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                Context().run(self._thread.start)  # not in the context of whoever spoke first

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._serve(item)
            except Exception:  # one item that cannot be served must not take along those behind it
                log.exception("a defect in %s", self._name)
