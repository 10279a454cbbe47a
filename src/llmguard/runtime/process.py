"""One process's guard at work for code that calls from within it: threads, tasks, coroutines of any loop.

What the proxy does in its event loop, this does with threads: calls are answered in the thread that makes them, one
thread talks to the quota store, one to the ledger, and the shipper carries the spool. None of them is ever inherited: a
service belongs to the process that made it, and a forked child makes its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import Any, TypeVar

from llmguard.core.effects import (
    Ask,
    Count,
    Effect,
    Emit,
    GiveUp,
    Keep,
    Notice,
    Owners,
    Seek,
    Spool,
    Steps,
    Tell,
    Verify,
)
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.flow import adrive, drive
from llmguard.core.moves import Answer, Level, Move
from llmguard.core.ports import TokenCounter
from llmguard.core.records import SettleRecord
from llmguard.runtime import upkeep
from llmguard.runtime.blocking import BlockingLink
from llmguard.runtime.counting import Counting
from llmguard.runtime.ids import now_ms
from llmguard.runtime.loops import LoopLinks
from llmguard.runtime.owners import ObjectOwners
from llmguard.runtime.replies import BlockingReplies
from llmguard.runtime.rounds import Rounds
from llmguard.runtime.upkeep import Parts, Upkeep, Work, finish

T = TypeVar("T")

START_SECONDS = 2.0
"""How long the first calls of a process wait for its ledger and store; then the policy for absent ones decides."""

_LOOK_SECONDS = 0.02

_WAITING: frozenset[type[Effect]] = frozenset({Ask, Verify, Owners, Count, Seek})
_Handlers = dict[type[Any], Callable[[Any], Any]]


class ProcessService(Upkeep[BlockingLink]):
    """Runs calls in their own threads and loops, and the background work in threads of this process.

    ``loops`` is how coroutines ask a store on the network; without it the store is in memory and answers at once.
    """

    def __init__(
        self,
        owner: str,
        link: BlockingLink,
        parts: Parts,
        owners: ObjectOwners,
        counter: TokenCounter,
        loops: LoopLinks | None,
        replies: BlockingReplies | None = None,
    ) -> None:
        super().__init__(owner, link, parts, lambda work: work())
        self.pid = os.getpid()
        self.live: dict[str, Exchange] = {}
        self._owners = owners
        counting = Counting(counter)
        self._loops = loops
        self._handlers: _Handlers = {
            Ask: lambda effect: self.link.ask(effect.move),
            Tell: lambda effect: self.link.tell(effect.move),
            Verify: lambda effect: self._keyring.check(effect.secret),
            Owners: owners.look,
            Count: counting.answer,
            Spool: self._spool,
            Emit: self.tally.note,
            Notice: lambda effect: self.notices.note(effect.note),
        }
        self._async_handlers: _Handlers = self._handlers | {
            Ask: lambda effect: self._aask(effect.move),
            Verify: lambda effect: self._keyring.verify(effect.secret),
            Owners: owners.find,
            Count: counting.promise,
        }
        self._replies = replies
        if replies is not None:
            self._handlers |= {Seek: replies.seek, Keep: replies.keep, GiveUp: replies.give_up}
            self._async_handlers |= {Seek: replies.aseek, Keep: replies.keep, GiveUp: replies.give_up}
        self._started = threading.Event()
        self._patience = 0.0
        self._ledger_thread = self._rounds(
            "llmguard-ledger",
            {
                self.get_ready: upkeep.RETRY,
                self.refresh_keys: upkeep.KEYS,
                self.write_counts: upkeep.COUNTS,
                self.adopt: upkeep.ADOPT,
                self.reconcile: upkeep.RECONCILE,
                self.forget: upkeep.FORGET,
            },
        )
        self._store_thread = self._rounds(
            "llmguard-store",
            {
                self.flush: upkeep.RETRY,
                self.renew: upkeep.HEARTBEAT,
                self.renew_runs: upkeep.RUN_HEARTBEAT,
            },
        )
        self.stopped = False

    now = staticmethod(now_ms)

    @property
    def usable(self) -> bool:
        """Whether it is this process's own, and not stopped."""
        return not self.stopped and self.pid == os.getpid()

    # ------------------------------------------------------------------ calls

    def ask(self, move: Move) -> Answer:
        """Make a move on the quota store and learn its answer. Raises StoreUnavailable within half a second."""
        self._wait_for_start()
        return self.link.ask(move)

    def run(self, steps: Steps[T]) -> T:
        """Run a piece of core code; this thread waits where it has to."""
        self._wait_for_start()
        return drive(steps, self._handlers)

    async def arun(self, steps: Steps[T]) -> T:
        """Run a piece of core code; this coroutine waits where it has to."""
        if not self._started.is_set():
            await asyncio.to_thread(self._wait_for_start)
        return await adrive(steps, self._async_handlers, _WAITING)

    def perform(self, effect: Effect) -> Any:
        """Do one effect that never waits."""
        return self._handlers[type(effect)](effect)

    def enter(self, x: Exchange) -> None:
        """A call begins: from now on it is alive until :meth:`close`."""
        self.live[x.event_id] = x

    def close(self, x: Exchange, ending: Ending) -> None:
        """End a call, once; later calls do nothing. Without any wait."""
        if self.live.pop(x.event_id, None) is not None:
            drive(x.close(ending, now_ms()), self._handlers)

    def charged(self) -> dict[str, Level]:
        """What the ledger has in every bucket of every budget, by name. Raises LedgerUnavailable."""
        self._wait_for_start()  # it may still have to be made
        return {bucket.name: Level(amount, 0, 0, 0) for bucket, amount in self._books.standing()}

    def _aask(self, move: Move) -> Answer | Awaitable[Answer]:
        return self.link.ask(move) if self._loops is None else self._loops.ask(move)

    def _spool(self, effect: Spool) -> None:
        self.spool.append(effect.record)
        if type(effect.record) is SettleRecord and (effect.record.objects or effect.record.deleted):
            self._owners.note(effect.record)

    # ------------------------------------------------------------------ start

    def start(self) -> None:
        """Start the threads. The first calls wait for the first attempt to get ready, but not for long."""
        self._patience = time.monotonic() + START_SECONDS
        self.link.hurry = self._hurry
        atexit.register(self.stop)
        for thread in (self.shipper, self._store_thread, self._ledger_thread):
            Context().run(thread.start)  # they work for nobody in particular, least of all for whoever calls first

    def _wait_for_start(self) -> None:
        if not self._started.is_set():
            self._started.wait(max(self._patience - time.monotonic(), 0))

    # ------------------------------------------------------------------ background work

    def get_ready(self) -> Work:
        """As in every process; then calls need not wait any longer."""
        try:
            yield from super().get_ready()
        finally:
            self._started.set()

    def flush(self) -> Work:
        """Send the moves that nobody waits for."""
        yield from ()
        self.link.repay()
        self.link.flush()

    def _hurry(self) -> None:
        self._store_thread.hurry(self.flush)

    def _rounds(self, name: str, works: Mapping[Callable[[], Work], float]) -> Rounds[Callable[[], Work]]:
        return Rounds(name, works, self._quietly)

    def _quietly(self, work: Callable[[], Work]) -> None:
        trouble: Exception | None = None
        try:
            finish(work())
        except Exception as error:  # noqa: BLE001  the work that holds leases and ships records outlives a defect in it
            trouble = error
        self.report(work.__name__, trouble)

    # ------------------------------------------------------------------ the end

    async def idle(self, seconds: float = 5.0) -> None:
        """Wait until no call is running, ``seconds`` at most."""
        end = time.monotonic() + seconds
        while self.usable and self.live and time.monotonic() < end:
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self, seconds: float = 5.0) -> None:
        """Put everything on record, in ``seconds`` or a little more. Calls that still run are recorded as they stand.

        Does nothing the second time, and in a forked child.
        """
        if not self.usable:
            return
        self.stopped = True
        atexit.unregister(self.stop)
        for x in list(self.live.values()):
            self.close(x, Ending.CALLER_GONE)
        end = time.monotonic() + seconds

        def left() -> float:
            return max(end - time.monotonic(), 0.1)

        if self._replies is not None:
            self._replies.close()
        self._store_thread.stop(left(), last=self.flush)
        self._ledger_thread.stop(left(), last=self.write_counts)
        self.link.close()
        self.notices.stop(left())
        self.say_what_is_left(self.shipper.stop(timeout=left()))
        self.spool.close(self.shipper.shipped)
        self._ledger.close()
