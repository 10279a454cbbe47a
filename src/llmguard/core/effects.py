"""What the core asks of the world: it yields one of these and receives the reply.

A driver (see :mod:`llmguard.core.flow`) performs them. Only :class:`Ask`, :class:`Verify`, :class:`Owners`,
:class:`Count` and :class:`Seek` may have to wait; the others are done when the driver returns, which is what lets a
call be closed without ever giving up control.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from msgspec import Struct

from llmguard.core.cache import Kept
from llmguard.core.call import Attribution, Call, ObjectRef
from llmguard.core.moves import Extend, Release, Renew, Reserve, Settle, Trip
from llmguard.core.notes import Note
from llmguard.core.ports import Dialect
from llmguard.core.records import Record
from llmguard.core.runs import Enter, Paid


class Verify(Struct, eq=False):
    """Check a caller's key. Reply: the :class:`~llmguard.core.call.Principal`, or a word saying why not
    (`unknown`, `expired`, `revoked`). Raises GuardUnavailable when nobody can tell now."""

    secret: str


class Owners(Struct, eq=False):
    """Who owns these objects at the provider. Reply: a list of team names (``org/team``), None for an unknown one."""

    provider: str
    refs: tuple[ObjectRef, ...]


class Count(Struct, eq=False):
    """Count a call's prompt tokens exactly. Reply: int. ``inline`` forbids waiting for another thread."""

    call: Call
    dialect: Dialect
    model: str
    inline: bool = False


class Spool(Struct, eq=False):
    """Write a record to the local spool. Reply: None once the kernel has it. Raises SpoolFull."""

    record: Record


class Ask(Struct, eq=False):
    """Make a move on the quota store and wait for its answer. Raises StoreUnavailable."""

    move: Reserve | Extend | Trip | Enter


class Tell(Struct, eq=False):
    """Send a move to the quota store without waiting; it is repeated until the store has taken it. Reply: None."""

    move: Settle | Release | Renew | Paid | Trip


class Found(Struct, eq=False):
    """What the cache has of a call: a reply, or the right to fetch it for all who ask (``claimed``), or neither."""

    kept: Kept | None = None
    claimed: bool = False


class Seek(Struct, eq=False):
    """Look for a kept reply, and wait for one that another caller is fetching. Reply: :class:`Found`.

    ``name`` is the call's digest, ``owner`` its team (``org/team``), ``rid`` the call's own id.
    """

    name: bytes
    owner: str
    rid: str


class Keep(Struct, eq=False):
    """Keep a reply for ``ttl_ms`` and end the claim on it. Reply: None, whether or not there is room."""

    name: bytes
    owner: str
    rid: str
    kept: Kept
    ttl_ms: int


class GiveUp(Struct, eq=False):
    """End a claim without a reply, so that the next caller fetches one. Reply: None."""

    name: bytes
    owner: str
    rid: str


class Emit(Struct, eq=False):
    """Count something for the operator: a refusal or a finished call. Reply: None."""

    event: str
    code: str
    attribution: Attribution


class Notice(Struct, eq=False):
    """Tell the operator. Reply: None."""

    note: Note


Effect = Verify | Owners | Count | Spool | Ask | Tell | Seek | Keep | GiveUp | Emit | Notice
T = TypeVar("T")
Steps = Generator[Effect, Any, T]
"""A piece of core code that may need the world: yields effects, is sent their replies, returns T."""
