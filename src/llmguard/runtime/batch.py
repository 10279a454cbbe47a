"""Carries all store moves of one turn of the event loop to the store in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from llmguard.core.moves import Again, Answer, Move
from llmguard.errors import StoreUnavailable

_IN_FLIGHT = 2
_OWED = 100_000

Apply = Callable[[Sequence[Move]], Awaitable[list[Answer]]]


class Batcher:
    """Gathers moves until the loop's next turn; at most two batches travel at once, so that load makes batches larger.

    Moves that nobody waits for (settle, release) are owed until the store has taken them: :meth:`repay` sends again
    what could not be delivered. Beyond 100,000 owed moves the oldest are left to the reconciliation with the ledger.
    """

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._queue: list[tuple[Move, asyncio.Future[Answer] | None]] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._owed: deque[Move] = deque(maxlen=_OWED)

    def ask(self, move: Move) -> asyncio.Future[Answer]:
        """Send with the next batch; the future has the answer or raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.append((move, future))
        if not self._scheduled:
            self._schedule(loop)
        return future

    def tell(self, move: Move) -> None:
        """Send with the next batch, and again later if the store is away."""
        self._queue.append((move, None))
        if not self._scheduled:
            self._schedule(asyncio.get_running_loop())

    def repay(self) -> None:
        """Queue again the moves that the store has not taken yet."""
        while self._owed:
            self.tell(self._owed.popleft())

    @property
    def owed(self) -> int:
        """How many moves the store has not taken yet."""
        return len(self._owed)

    async def drain(self) -> None:
        """Wait until nothing is queued or travelling; what the store refused to take stays owed."""
        while self._queue or self._flights:
            if self._flights:
                await asyncio.wait(self._flights)
            else:
                await asyncio.sleep(0)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._flights) < _IN_FLIGHT:
            self._scheduled = True
            loop.call_soon(self._launch, loop)

    def _launch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        if not self._queue:
            return
        batch, self._queue = self._queue, []
        flight = loop.create_task(self._fly(batch))
        self._flights.add(flight)
        flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._queue and not self._scheduled:
            self._schedule(flight.get_loop())

    async def _fly(self, batch: list[tuple[Move, asyncio.Future[Answer] | None]]) -> None:
        try:
            answers = await self._apply([move for move, _ in batch])
        except StoreUnavailable as error:
            self._failed(batch, error)
            self._turn_away(error)
            return
        except BaseException:
            self._failed(batch, StoreUnavailable("the request to the quota store was broken off"))
            raise
        for (move, future), answer in zip(batch, answers, strict=True):
            if future is None:
                if isinstance(answer, Again) and answer.why == "cold":
                    self._owed.append(move)
            elif not future.done():
                future.set_result(answer)

    def _turn_away(self, error: StoreUnavailable) -> None:
        """The store is away, so those in line hear it now: trying for each of them would make it wait twice as long."""
        line = [pair for pair in self._queue if pair[1] is not None]
        self._queue = [pair for pair in self._queue if pair[1] is None]
        self._failed(line, error)

    def _failed(self, batch: list[tuple[Move, asyncio.Future[Answer] | None]], error: StoreUnavailable) -> None:
        for move, future in batch:
            if future is None:
                self._owed.append(move)
            elif not future.done():
                future.set_exception(StoreUnavailable(str(error)))
