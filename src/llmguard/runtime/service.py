"""One process's guard at work in an event loop: what runs beside the calls, from start to the last record."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from llmguard.core.exchange import Ending
from llmguard.runtime import upkeep
from llmguard.runtime.aio import AsyncRuntime
from llmguard.runtime.links import Link
from llmguard.runtime.upkeep import Parts, Upkeep, Work, afinish

log = logging.getLogger("llmguard.service")


class Service(Upkeep[Link]):
    """Owns the background work of one process and event loop. ``kept`` is what doors keep with it."""

    def __init__(self, owner: str, runtime: AsyncRuntime, link: Link, parts: Parts) -> None:
        super().__init__(owner, link, parts, asyncio.to_thread)
        self.runtime = runtime
        self.live = runtime.live
        self._tasks: list[asyncio.Task[None]] = []
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.kept: dict[object, object] = {}
        self._pid = os.getpid()
        self._stopped = False

    async def start(self) -> None:
        """Begin the background work. Returns when the first attempt to get ready is over, ready or not."""
        self.shipper.start()
        await asyncio.gather(self.runtime.warm(), afinish(self.get_ready()))
        self._tasks = [
            asyncio.create_task(self._every(seconds, work), name=f"llmguard-{work.__name__}")
            for seconds, work in (
                (upkeep.RETRY, self.get_ready),
                (upkeep.HEARTBEAT, self.renew),
                (upkeep.KEYS, self.refresh_keys),
                (upkeep.COUNTS, self.write_counts),
                (upkeep.ADOPT, self.adopt),
                (upkeep.RECONCILE, self.reconcile),
                (upkeep.FORGET, self.forget),
            )
        ]

    async def stop(self, seconds: float = 5.0) -> None:
        """Let the last calls end, which the server has drained before, and put everything on record.

        Does nothing the second time, and in a forked child.
        """
        if self._stopped or self._pid != os.getpid():
            return
        self._stopped = True
        try:
            await asyncio.wait_for(self.runtime.ended(), seconds)
        except TimeoutError:
            log.warning("%d calls did not end in %.0f s and are recorded as they stand", len(self.live), seconds)
        for x in list(self.live.values()):
            self.runtime.close(x, Ending.CALLER_GONE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for close in self.closers:
            await close()
        await self.link.close()
        await self._quietly(self.write_counts)
        await asyncio.to_thread(self.notices.stop)
        self.say_what_is_left(await asyncio.to_thread(self.shipper.stop))
        self.spool.close(self.shipper.shipped)
        self._ledger.close()

    async def _every(self, seconds: float, work: Callable[[], Work]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._quietly(work)

    async def _quietly(self, work: Callable[[], Work]) -> None:
        trouble: Exception | None = None
        try:
            await afinish(work())
        except Exception as error:  # noqa: BLE001  the work that holds leases and hears of revoked keys outlives a defect in it
            trouble = error
        self.report(work.__name__, trouble)
