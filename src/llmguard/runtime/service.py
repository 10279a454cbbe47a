"""One process's guard at work: what runs beside the calls, from start to the last record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from llmguard.core.exchange import Ending, Exchange
from llmguard.core.moves import Again, Assert, Done, Move, Renew, Truth
from llmguard.errors import GuardUnavailable, LLMGuardError
from llmguard.ledger import Ledger, Shipper, Spool
from llmguard.runtime.aio import AsyncRuntime
from llmguard.runtime.books import LedgerBooks
from llmguard.runtime.keyring import Keyring
from llmguard.runtime.links import Link
from llmguard.runtime.tally import Tally
from llmguard.stores.pieces import pieces

log = logging.getLogger("llmguard.service")

LEASE_MS = 60_000
_HEARTBEAT = 15.0
_KEYS = 0.5
_COUNTS = 10.0
_ADOPT = 30.0
_RECONCILE = 60.0
_RETRY = 1.0


@dataclass(slots=True)
class Health:
    """What stands between this process and readiness."""

    ledger: str | None = "starting"
    store: str | None = "starting"


class Service:
    """Owns the background work of one process and event loop."""

    def __init__(
        self,
        owner: str,
        runtime: AsyncRuntime,
        link: Link,
        books: LedgerBooks,
        keyring: Keyring,
        tally: Tally,
        spool: Spool,
        shipper: Shipper,
        ledger: Ledger,
    ) -> None:
        self.owner = owner
        self.runtime = runtime
        self.tally = tally
        self.spool = spool
        self.shipper = shipper
        self.link = link
        self.health = Health()
        self.drift = 0
        self._books = books
        self._keyring = keyring
        self._ledger = ledger
        self._tasks: list[asyncio.Task[None]] = []
        self._troubles: dict[str, str] = {}
        self.closers: list[Callable[[], Awaitable[None]]] = []

    def not_ready(self) -> list[str]:
        """Why calls cannot be taken now; empty when they can."""
        reasons = {"ledger": self.health.ledger, "quota store": self.health.store}
        return [f"{what}: {why}" for what, why in reasons.items() if why is not None]

    async def start(self) -> None:
        """Begin the background work. Returns when the first attempt to get ready is over, ready or not."""
        self.shipper.start()
        await asyncio.gather(self.runtime.warm(), self._get_ready())
        self._tasks = [
            asyncio.create_task(self._every(seconds, work), name=f"llmguard-{work.__name__}")
            for seconds, work in (
                (_RETRY, self._get_ready),
                (_HEARTBEAT, self._renew),
                (_KEYS, self._refresh_keys),
                (_COUNTS, self._write_counts),
                (_ADOPT, self._adopt),
                (_RECONCILE, self._reconcile),
            )
        ]

    async def stop(self, seconds: float = 5.0) -> None:
        """Let the last calls end, which the server has drained before, and put everything on record."""
        try:
            await asyncio.wait_for(self.runtime.idle.wait(), seconds)
        except TimeoutError:
            log.warning(
                "%d calls did not end in %.0f s and are recorded as they stand", len(self.runtime.live), seconds
            )
        for x in list(self.runtime.live.values()):
            self.runtime.close(x, Ending.CALLER_GONE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for close in self.closers:
            await close()
        await self.link.close()
        if self.link.owed:
            log.warning("the quota store did not take %d moves; it learns of them from the ledger", self.link.owed)
        await self._quietly(self._write_counts)
        if not await asyncio.to_thread(self.shipper.stop):
            log.warning(
                "the ledger did not take all records; they stay in %s and will be adopted", self.spool.directory
            )
        self.spool.close(self.shipper.shipped)
        self._ledger.close()

    # ------------------------------------------------------------------ background work

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._quietly(work)

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work; what goes wrong is said once, and again when it has changed."""
        name, trouble = work.__name__, ""
        try:
            await work()
        except LLMGuardError as error:
            trouble = str(error)
        except Exception as error:  # the work that holds leases and hears of revoked keys outlives a defect in it
            log.exception("a defect in %s", name)
            trouble = f"a defect: {error!r}"
        if trouble != self._troubles.get(name, ""):
            log.warning("%s: %s", name.lstrip("_").replace("_", " "), trouble or "well again")
        self._troubles[name] = trouble

    async def _get_ready(self) -> None:
        """Reach the ledger, then the store; load the store where it has forgotten."""
        self.link.repay()
        if self.health.ledger is not None:
            try:
                adopted = await asyncio.to_thread(self._books.prepare)
            except GuardUnavailable as error:
                self.health.ledger = str(error)
                return
            self.health.ledger = None
            self._tell(adopted)
        try:
            if await self.link.cold():
                await self.link.load(self._books.truth)
            elif self.health.store is not None:
                await self._begin_new_buckets()
            self.health.store = "being loaded from the ledger" if await self.link.cold() else None
        except GuardUnavailable as error:
            self.health.store = str(error)

    async def _begin_new_buckets(self) -> None:
        """A rule that is new begins in mid-window: its buckets start from what the ledger has, not from nothing."""
        truth = await asyncio.to_thread(self._books.truth)
        for piece in pieces(Truth(truth.sums, ()), 0):
            await _answered(self.link.ask(piece))

    async def _renew(self) -> None:
        """Push the leases of running calls; enter those again that a store without memory has lost."""
        rids = tuple(x.event_id for x in self.runtime.live.values() if x.reserved)
        if not rids:
            return
        answer = await _answered(self.link.ask(Renew(self.owner, LEASE_MS, rids)))
        lost = answer.gone if isinstance(answer, Done) else rids if isinstance(answer, Again) else ()
        for rid in lost:
            x = self.runtime.live.get(rid)
            if x is not None and x.reserved:
                self.link.tell(_assertion(x, self.owner))

    async def _refresh_keys(self) -> None:
        if self.health.ledger is None:
            await asyncio.to_thread(self._keyring.refresh)

    async def _write_counts(self) -> None:
        counts = self.tally.take()
        if counts:
            try:
                await asyncio.to_thread(self._books.count_refusals, counts)
            except GuardUnavailable:
                self.tally.give_back(counts)
                raise

    async def _adopt(self) -> None:
        self._tell(await asyncio.to_thread(self._books.adopt))

    def _tell(self, moves: Iterable[Move]) -> None:
        for move in moves:
            self.link.tell(move)

    async def _reconcile(self) -> None:
        """Settle again what the ledger has and the store does not know, by rid."""
        settled = {move.rid: move for move in await asyncio.to_thread(self._books.recent)}
        missing = await self.link.unknown(list(settled)) if settled else []
        self._tell(settled[rid] for rid in missing)
        self.drift = len(missing)
        if missing:
            log.warning("the quota store had not heard of %d settled calls; they were settled again", len(missing))


async def _answered(answer: object) -> object:
    return await answer if isinstance(answer, Awaitable) else answer


def _assertion(x: Exchange, owner: str) -> Assert:
    assert x.plan is not None
    assert x.estimate is not None
    holds = tuple(x.estimate.hold(bucket) for bucket in x.plan.buckets)
    return Assert(x.event_id, owner, LEASE_MS, holds, x.estimate.max_output)
