"""Who owns an object at a provider: remembered where this process saw it made, else asked of the ledger."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress

from llmguard.core.call import ObjectRef
from llmguard.core.effects import Owners
from llmguard.core.records import SettleRecord

_REMEMBER = 50_000
_TRIES = 5
_PAUSE = 0.1

Key = tuple[str, str, str]
Lookup = Callable[[str, ObjectRef], str | None]


class ObjectOwners:
    """``lookup`` asks the ledger (blocking). An object made a moment ago by another process may not be there yet, so an
    unknown one is asked for again during half a second before it counts as nobody's."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: OrderedDict[Key, str] = OrderedDict()

    def note(self, record: SettleRecord) -> None:
        """Objects that a reply created or deleted."""
        entry = record.entry
        for kind, object_id in record.objects:
            self._remember((entry.provider, kind, object_id), f"{entry.org}/{entry.team}")
        for kind, object_id in record.deleted:
            self._known.pop((entry.provider, kind, object_id), None)

    def find(self, effect: Owners) -> list[str | None] | Awaitable[list[str | None]]:
        """Answer at once where every object is known here."""
        found = [self._known.get((effect.provider, ref.kind, ref.id)) for ref in effect.refs]
        return self._ask(effect) if None in found else found

    def look(self, effect: Owners) -> list[str | None]:
        """The same for a caller that may be kept waiting."""
        return [self._look(effect.provider, ref) for ref in effect.refs]

    def _look(self, provider: str, ref: ObjectRef) -> str | None:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)
            owner = self._known_or_asked(provider, ref)
            if owner is not None:
                return owner
        return None

    async def _ask(self, effect: Owners) -> list[str | None]:
        return [await self._ask_for(effect.provider, ref) for ref in effect.refs]

    async def _ask_for(self, provider: str, ref: ObjectRef) -> str | None:
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE)
            owner = await asyncio.to_thread(self._known_or_asked, provider, ref)
            if owner is not None:
                return owner
        return None

    def _known_or_asked(self, provider: str, ref: ObjectRef) -> str | None:
        key = (provider, ref.kind, ref.id)
        owner = self._known.get(key) or self._lookup(provider, ref)
        if owner is not None:
            self._remember(key, owner)
        return owner

    def _remember(self, key: Key, owner: str) -> None:
        self._known.pop(key, None)
        self._known[key] = owner
        if len(self._known) > _REMEMBER:
            with suppress(KeyError):  # another thread was faster
                self._known.popitem(last=False)
