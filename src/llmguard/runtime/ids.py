"""UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then randomness; sorts by time."""

from __future__ import annotations

import os
import random
import time

# Ids are unique, not secret: a generator seeded by the system saves a system call for each.
_random = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def now_ms() -> int:
    """Wall clock, UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


def uuid7(at_ms: int | None = None) -> str:
    """A new id in the canonical 36-character form."""
    ms = now_ms() if at_ms is None else at_ms
    bits = _random.getrandbits(74)
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{bits & 0xFFF:03x}-{0x8000 | bits >> 12 & 0x3FFF:04x}-{bits >> 26:012x}"
