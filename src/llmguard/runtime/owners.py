"""Who owns an object at a provider: remembered where this process saw it made, else asked of the ledger."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

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

    async def _ask(self, effect: Owners) -> list[str | None]:
        found: list[str | None] = []
        for ref in effect.refs:
            key = (effect.provider, ref.kind, ref.id)
            owner = self._known.get(key)
            for attempt in range(_TRIES):
                if owner is not None:
                    break
                if attempt:
                    await asyncio.sleep(_PAUSE)
                owner = await asyncio.to_thread(self._lookup, effect.provider, ref)
            if owner is not None:
                self._remember(key, owner)
            found.append(owner)
        return found

    def _remember(self, key: Key, owner: str) -> None:
        self._known[key] = owner
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBER:
            self._known.popitem(last=False)
