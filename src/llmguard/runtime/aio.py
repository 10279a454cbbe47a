"""The asynchronous runtime: answers the core's effects for one process and one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

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
from llmguard.core.moves import Answer, Move
from llmguard.core.ports import TokenCounter
from llmguard.core.records import Record, SettleRecord
from llmguard.runtime.counting import Counting
from llmguard.runtime.ids import now_ms
from llmguard.runtime.keyring import Keyring
from llmguard.runtime.notices import Notices
from llmguard.runtime.owners import ObjectOwners
from llmguard.runtime.replies import AsyncReplies
from llmguard.runtime.tally import Tally

T = TypeVar("T")
_LOOK_S = 0.02
_WAITING: frozenset[type[Effect]] = frozenset({Ask, Verify, Owners, Count, Seek})
_COMMON_MODEL = "gpt-4o"


class StoreLink(Protocol):
    """How moves reach the quota store: at once (memory) or with the loop's next batch (Redis)."""

    def ask(self, move: Move) -> Answer | Awaitable[Answer]:
        """Make a move and learn its answer."""
        ...

    def tell(self, move: Move) -> None:
        """Make a move that nobody waits for."""
        ...


class AsyncRuntime:
    """Performs effects. Counting a long prompt exactly is slow, so that is done in another thread."""

    def __init__(
        self,
        store: StoreLink,
        write: Callable[[Record], None],
        keyring: Keyring,
        owners: ObjectOwners,
        tally: Tally,
        counter: TokenCounter,
        notices: Notices,
        replies: AsyncReplies | None = None,
    ) -> None:
        self._counter = counter
        self._write = write
        self._owners = owners
        self.live: dict[str, Exchange] = {}
        self._handlers: dict[type[Any], Callable[[Any], Any]] = {
            Ask: lambda effect: store.ask(effect.move),
            Tell: lambda effect: store.tell(effect.move),
            Verify: lambda effect: keyring.verify(effect.secret),
            Owners: owners.find,
            Count: Counting(counter).promise,
            Spool: self._spool,
            Emit: tally.note,
            Notice: lambda effect: notices.note(effect.note),
        }
        if replies is not None:
            self._handlers |= {Seek: replies.seek, Keep: replies.keep, GiveUp: replies.give_up}

    now = staticmethod(now_ms)

    async def warm(self) -> None:
        """Load the tokenizer that most models are counted with, now and not in the midst of calls: for a part of the
        half second that it takes, no other thread runs."""
        await asyncio.to_thread(self._counter.count, _COMMON_MODEL, ("",))

    def run(self, steps: Steps[T]) -> Awaitable[T]:
        """Run a piece of core code that may have to wait."""
        return adrive(steps, self._handlers, _WAITING)

    def perform(self, effect: Effect) -> Any:
        """Do one effect that never waits."""
        return self._handlers[type(effect)](effect)

    def enter(self, x: Exchange) -> None:
        """A call begins: from now on it is alive until :meth:`close`."""
        self.live[x.event_id] = x

    def close(self, x: Exchange, ending: Ending) -> None:
        """End a call, once; later calls do nothing. Without any wait, so no cancellation can come between."""
        if self.live.pop(x.event_id, None) is not None:
            drive(x.close(ending, now_ms()), self._handlers)

    async def ended(self) -> None:
        """Wait until no call is alive."""
        while self.live:
            await asyncio.sleep(_LOOK_S)

    def _spool(self, effect: Spool) -> None:
        self._write(effect.record)
        if type(effect.record) is SettleRecord and (effect.record.objects or effect.record.deleted):
            self._owners.note(effect.record)
