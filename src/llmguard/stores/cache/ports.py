"""What a cache's back end does, blocking and asynchronous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmguard.errors import LLMGuardError


class CacheAway(LLMGuardError):
    """The cache's server did not answer in time, or refused to keep more; the call goes on without it."""


CLAIM_MS = 60_000
"""How long one caller may fetch an answer that others wait for, before the next one may."""


@dataclass(slots=True, eq=False)
class Look:
    """The answer to a look-up: ``blob`` under the ``index``-th of the names asked for, or ``claimed``: nothing is there
    and the asker is the one to fetch it; neither: somebody else is fetching it now."""

    blob: bytes | None
    index: int = 0
    claimed: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """Entries and bytes in the cache now."""

    entries: int
    bytes: int


class Backend(Protocol):
    """Keeps blobs by name. ``owner`` tells the callers of :meth:`look` apart. Names are ``tenant/entry``.

    Methods raise :class:`CacheAway` when the back end does not answer in time.
    """

    def look(self, names: Sequence[str], owner: str | None) -> Look:
        """Find the first of ``names``; where there is none and ``owner`` is given, claim the first name."""
        ...

    def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """Keep a blob for ``ttl_ms``, making room by dropping what was not used for longest, and end ``owner``'s claim.

        False for one that is too large for this cache.
        """
        ...

    def give_up(self, name: str, owner: str) -> None:
        """End a claim without an entry, so that whoever waits fetches for itself."""
        ...

    def purge(self, tenant: str | None = None) -> int:
        """Drop all entries, or those of one tenant; returns how many."""
        ...

    def stats(self) -> Stats:
        """What is there."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class AsyncBackend(Protocol):
    """What calls need of it, for asyncio."""

    async def look(self, names: Sequence[str], owner: str | None) -> Look:
        """See :meth:`Backend.look`."""
        ...

    async def put(self, name: str, blob: bytes, ttl_ms: int, owner: str | None) -> bool:
        """See :meth:`Backend.put`."""
        ...

    async def give_up(self, name: str, owner: str) -> None:
        """See :meth:`Backend.give_up`."""
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...
