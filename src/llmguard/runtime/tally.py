"""Counts of what happened, gathered in memory and taken away in batches."""

from __future__ import annotations

import threading
from collections import Counter

from llmguard.core.effects import Emit
from llmguard.runtime.ids import now_ms

_MINUTE = 60_000
_REFUSED = ("refused", "cut")

Refusal = tuple[int, str, str, str, str, str]
"""Minute (epoch ms), org, team, env, feature, code."""


class Tally:
    """Refusals per minute and attribution (for the ledger), and totals per event and code (for metrics). For any
    number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusals: Counter[Refusal] = Counter()
        self.events: Counter[tuple[str, str]] = Counter()

    def note(self, emit: Emit) -> None:
        """Count one event."""
        with self._lock:
            self.events[emit.event, emit.code] += 1
            if emit.event in _REFUSED:
                who = emit.attribution
                minute = now_ms() // _MINUTE * _MINUTE
                self._refusals[minute, who.org, who.team, who.env, who.feature, emit.code] += 1

    def take(self) -> Counter[Refusal]:
        """The refusals counted since the last call; they are the caller's to write down now."""
        with self._lock:
            taken, self._refusals = self._refusals, Counter()
        return taken

    def give_back(self, refusals: Counter[Refusal]) -> None:
        """Put back what could not be written."""
        with self._lock:
            self._refusals.update(refusals)
