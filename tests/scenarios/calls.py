"""What a scenario is made of: what a caller sends and must hear, what the provider does, what the ledger must say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.upstream import Answer, Seen

MARK = "MARK"
"""Stands in bodies for the words by which the provider knows whose call it is."""
ANY = "…"
"""Of a header or a column: whatever it says."""

Kind = Literal["gateway", "layers", "inside"]
"""What a door is: the whole gateway, layers around an application that calls the provider, or a guarded client."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sees:
    """What the caller must hear. ``body`` is checked byte by byte; ``holds`` are pieces of it, ``lacks`` headers.

    ``status`` 0 is an exception of the client's, whose name is ``code``.
    """

    status: int = 200
    code: str | None = None
    body: bytes | None = None
    holds: tuple[bytes, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One request. ``leaves`` is the last thing heard before the caller hangs up, b"" for nothing.

    ``meanwhile`` is made by somebody else after the first bytes of this one's reply have come. ``seen_elsewhere`` is
    what must be heard at the doors that it names, or at those of a kind.
    """

    sees: Sees
    body: Any = None
    method: str = "POST"
    path: str = "/v1/chat/completions"
    key: Literal["own", "other", "wrong", "none"] = "own"
    headers: Mapping[str, str] = field(default_factory=dict)
    leaves: bytes | None = None
    meanwhile: Call | None = None
    second_guard: bool = False
    seen_elsewhere: Mapping[str, Sees] = field(default_factory=dict)

    def content(self, mark: str) -> bytes:
        """The body as it is sent."""
        if self.body is None:
            return b""
        raw = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return raw.replace(MARK.encode(), mark.encode())

    def wanted(self, door: str, kind: Kind) -> Sees:
        """What must be heard at a door."""
        return self.seen_elsewhere.get(door) or self.seen_elsewhere.get(kind) or self.sees

    def all(self) -> tuple[Call, ...]:
        """This call, and the one that is made meanwhile before it."""
        return (self,) if self.meanwhile is None else (self.meanwhile, self)


@dataclass(frozen=True)
class Heard:
    """What came back. ``raised`` is the name of the client's exception."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    raised: str | None = None

    @property
    def code(self) -> str | None:
        """The code of a refusal, wherever its dialect has it."""
        if self.raised is not None:
            return self.raised
        try:
            error = json.loads(self.body)["error"]
            code = error.get("details", {}).get("error_code") or error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return str(code) if code is not None else None


@dataclass(frozen=True)
class Scenario:
    """A name, which is also the team; one sentence; what happens; and what must be on record afterwards.

    ``forwarded`` counts the requests that the provider gets, ``rows`` are those of the team in order, ``second`` those
    in the ledger of the other guard. ``timed`` names the columns that depend on the moment.
    """

    name: str
    says: str
    calls: tuple[Call, ...]
    rows: tuple[Row, ...]
    provider: Answer | Callable[[Seen], Answer] | None = None
    forwarded: int = 1
    second: tuple[Row, ...] = ()
    timed: frozenset[str] = frozenset()

    @property
    def steps(self) -> tuple[Call, ...]:
        """All calls, in the order in which their replies are complete."""
        return tuple(step for call in self.calls for step in call.all())
