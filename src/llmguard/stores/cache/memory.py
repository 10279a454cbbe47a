"""The cache of a single process: the reference for what a back end does."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmguard.stores.cache.ports import CLAIM_MS, Look, Stats
from llmguard.stores.memory import system_clock


class _Entry(NamedTuple):
    blob: bytes
    until: int


class _Claim(NamedTuple):
    owner: str
    until: int


class MemoryCache:
    """Keeps blobs in this process, the last used ones up to ``max_bytes``. May be used from several threads.

    ``clock`` returns epoch milliseconds.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], int] = system_clock) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._claims: dict[str, _Claim] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def look(self, names: Sequence[str], owner: str | None) -> Look:
        """Find the first of ``names``, or claim it."""
        with self._lock:
            now = self._clock()
            for index, name in enumerate(names):
                entry = self._entries.get(name)
                if entry is None:
                    continue
                if entry.until <= now:
                    self._drop(name)
                    continue
                self._entries.move_to_end(name)
                return Look(entry.blob, index)
            if owner is None:
                return Look(None)
            claim = self._claims.get(names[0])
            if claim is not None and now < claim.until and claim.owner != owner:
                return Look(None)
            self._claims[names[0]] = _Claim(owner, now + CLAIM_MS)
            return Look(None, claimed=True)

    def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """Keep a blob and end the claim on its name."""
        with self._lock:
            self._end_claim(name, owner)
            if len(blob) > self._max_bytes:
                return False
            if name in self._entries:
                self._drop(name)
            while self._bytes + len(blob) > self._max_bytes:
                self._drop(next(iter(self._entries)))
            self._entries[name] = _Entry(blob, self._clock() + ttl_ms)
            self._bytes += len(blob)
            return True

    def give_up(self, name: str, owner: str) -> None:
        """End a claim without an entry."""
        with self._lock:
            self._end_claim(name, owner)

    def purge(self, tenant: str | None = None) -> int:
        """Drop all entries, or those of one tenant."""
        with self._lock:
            names = [name for name in self._entries if tenant is None or name.startswith(f"{tenant}/")]
            for name in names:
                self._drop(name)
            return len(names)

    def stats(self) -> Stats:
        """What is there, entries that have run out included until they are looked for."""
        with self._lock:
            return Stats(len(self._entries), self._bytes)

    def close(self) -> None:
        """Nothing to give back."""

    def _end_claim(self, name: str, owner: str | None) -> None:
        claim = self._claims.get(name)
        if claim is not None and claim.owner == owner:
            del self._claims[name]

    def _drop(self, name: str) -> None:
        self._bytes -= len(self._entries.pop(name).blob)
