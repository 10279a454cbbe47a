"""UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then randomness; sorts by time."""

from __future__ import annotations

import os
import random
import time

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RAND_A = ((1 << 12) - 1) << 64
_RAND_B = (1 << 62) - 1

# Ids are unique, not secret: a generator seeded by the system saves a system call for each.
_random = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def now_ms() -> int:
    """Wall clock, UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


def uuid7(at_ms: int | None = None) -> str:
    """A new id in the canonical 36-character form."""
    bits = _random.getrandbits(80)
    value = (now_ms() if at_ms is None else at_ms) << 80 | _VERSION | (bits & _RAND_A) | _VARIANT | (bits & _RAND_B)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
