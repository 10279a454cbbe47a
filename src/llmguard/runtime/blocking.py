"""How moves reach the quota store from threads and worker processes: the blocking twin of :mod:`.links`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from llmguard.core.moves import Again, Answer, Known, Level, Move, Truth
from llmguard.errors import StoreUnavailable
from llmguard.stores.memory import MemoryStore

_ALONG = 64
"""Moves at most that travel with a question, so that they do not make its answer late."""

_BATCH = 500
_OWED = 100_000


class BlockingStore(Protocol):
    """What a store offers to threads (:class:`llmguard.stores.redis.RedisStore`)."""

    def apply(self, moves: Sequence[Move]) -> list[Answer]:
        """Apply a batch. Raises StoreUnavailable."""
        ...

    def load(self, read: Callable[[], Truth]) -> bool:
        """Fill a cold store; False while another process is at it."""
        ...

    def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled."""
        ...

    def levels(self, names: Sequence[str]) -> dict[str, Level] | None:
        """What buckets hold now, by name; None while the store is cold. Raises StoreUnavailable."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class BlockingLink:
    """A store on the network. Moves that nobody waits for travel with the next question, or with :meth:`flush`.

    They are owed until the store has taken them. Beyond 100,000 the oldest are left to the reconciliation with the
    ledger. ``hurry`` is called when there is something to flush soon. For any number of threads.
    """

    def __init__(self, store: BlockingStore, hurry: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self.hurry = hurry
        self._told: deque[Move] = deque(maxlen=_OWED)
        self._owed: deque[Move] = deque(maxlen=_OWED)

    @property
    def owed(self) -> int:
        """How many moves the store has not taken yet."""
        return len(self._told) + len(self._owed)

    def ask(self, move: Move) -> Answer:
        """Make a move and learn its answer, in one trip with moves that wait. Raises StoreUnavailable."""
        return self._send(_take(self._told, _ALONG), move)[-1]

    def tell(self, move: Move) -> None:
        """Make a move that nobody waits for."""
        self._told.append(move)
        if not self._owed:  # while the store is away, flushing more often helps nobody
            self.hurry()

    def repay(self) -> None:
        """Send owed moves again with the next flush."""
        self._told.extendleft(reversed(_take(self._owed, _OWED)))

    def flush(self) -> None:
        """Send what waits. Raises StoreUnavailable, and then owes it."""
        while moves := _take(self._told, _BATCH):
            self._send(moves)

    def _send(self, told: list[Move], *asked: Move) -> list[Answer]:
        try:
            answers = self._store.apply([*told, *asked])
        except BaseException:
            self._owed.extend(told)
            raise
        for move, answer in zip(told, answers, strict=False):
            if isinstance(answer, Again) and answer.why == "cold":
                self._owed.append(move)
        return answers

    def cold(self) -> bool:
        """Whether the store must be loaded before it can decide. Raises StoreUnavailable."""
        (answer,) = self._store.apply([Known(())])
        return isinstance(answer, Again)

    def load(self, read: Callable[[], Truth]) -> bool:
        """Fill a cold store from the ledger; False while another process is at it."""
        return self._store.load(read)

    def unknown(self, rids: Sequence[str]) -> list[str]:
        """Those of ``rids`` that the store does not know as settled."""
        return self._store.unknown(rids)

    def levels(self, names: Sequence[str]) -> dict[str, Level] | None:
        """What buckets hold now, by name; None while the store is cold. Raises StoreUnavailable."""
        return self._store.levels(names)

    def close(self) -> None:
        """Send what waits, once, and give back connections."""
        self.repay()
        try:
            self.flush()
        except StoreUnavailable:
            pass  # whoever closes looks at what is owed
        self._store.close()


class BlockingMemoryLink(BlockingLink):
    """A store in this process: every move is made at once."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)

    def tell(self, move: Move) -> None:
        """Make a move."""
        self._store.apply((move,))


def _take(waiting: deque[Move], most: int) -> list[Move]:
    """Take up to ``most`` moves; several threads may do so at once."""
    taken: list[Move] = []
    try:
        while len(taken) < most:
            taken.append(waiting.popleft())
    except IndexError:
        pass
    return taken
