"""The guard's clock in the hands of a test: windows end, limits refill and leases run out when the test says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final

from llmguard.config import units

CLOCKS: Final = ("llmguard.runtime.ids", "llmguard.stores.memory", "llmguard.ledger.clock", "llmguard.ledger.posting")
"""The modules that read the wall clock for everything that a guard decides and records."""


class Clock:
    """What the guard takes for the time, in this process. It goes on like any clock, and is moved besides."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def time_ns(self) -> int:
        """Nanoseconds since 1970, as the guard has them."""
        return time.time_ns() + self._ahead_ns

    @property
    def now(self) -> datetime:
        """The time as the guard has it, in UTC."""
        return datetime.fromtimestamp(self.time_ns() / 1e9, UTC)

    def advance(self, duration: str) -> None:
        """Let time pass: `"90s"`, `"15m"`, `"1h"`, `"2d"`. Raises ValueError for anything else."""
        self._ahead_ns += units.duration(duration) * 1_000_000

    def move_to(self, moment: datetime) -> None:
        """Make it this time. Backwards only before the first call. Raises ValueError for a time without a zone."""
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone: write datetime(…, tzinfo=UTC)")
        self._ahead_ns = int(moment.timestamp() * 1e9) - time.time_ns()


class _Time:
    """The module `time` with another wall clock."""

    def __init__(self, clock: Clock) -> None:
        self.time_ns = clock.time_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def clock() -> Iterator[Clock]:
    """Inside, all guards of this process have this clock: whatever they keep in memory, in SQLite and in the spool.
    Prices, servers such as Redis, and waits do not go by it."""
    made = Clock()
    modules = [import_module(name) for name in CLOCKS]
    for module in modules:
        module.time = _Time(made)  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        for module in modules:
            module.time = time  # type: ignore[attr-defined]
