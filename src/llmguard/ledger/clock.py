"""The ledger's clock, which tests replace."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns epoch milliseconds UTC."""


def now_ms() -> int:
    """This machine's time."""
    return time.time_ns() // 1_000_000
