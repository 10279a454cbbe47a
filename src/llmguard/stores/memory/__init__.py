"""The quota store of a single process: the reference implementation behind a lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from llmguard.core.limits import Book
from llmguard.core.moves import Answer, Begin, Done, Known, Level, Move, Open, Truth, Turn
from llmguard.stores.pieces import pieces

_TURN_MS = 60_000


def system_clock() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


class MemoryStore:
    """Keeps budgets in this process. It starts cold; :meth:`load` opens it at once, since no lease can be older.

    May be used from several threads. ``clock`` returns epoch milliseconds.
    """

    def __init__(self, clock: Callable[[], int] = system_clock) -> None:
        self.book = Book()
        self._clock = clock
        self._lock = threading.Lock()

    def apply(self, moves: Sequence[Move]) -> list[Answer]:
        """Apply the moves as one; the answers are in their order."""
        with self._lock:
            return self.book.apply(moves, self._clock())

    def needs_load(self) -> bool:
        """Whether the store is cold."""
        return not self.book.epoch

    def load(self, read: Callable[[], Truth], *, rebuild: bool = False) -> bool:
        """Fill a cold store (with ``rebuild`` any) from the ledger. False when another thread is at it."""
        (turn,) = self.apply([Begin(_TURN_MS, rebuild)])
        if not isinstance(turn, Turn) or not turn.fence:
            return False
        for piece in pieces(read(), turn.fence):
            self.apply([piece])
        (opened,) = self.apply([Open(turn.fence, 0)])
        return isinstance(opened, Done)

    def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled."""
        (known,) = self.apply([Known(tuple(rids))])
        return list(known.gone) if isinstance(known, Done) else list(rids)

    def levels(self, names: Sequence[str]) -> dict[str, Level] | None:
        """What buckets hold now, by name; those that do not exist are left out. None while the store is cold."""
        now = self._clock()
        with self._lock:
            found = {name: self.book.balance(name, now) for name in names}
            return {name: at.level() for name, at in found.items() if at} if self.book.epoch else None

    def close(self) -> None:
        """Nothing to give back."""
