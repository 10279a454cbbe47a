"""The last request head of a connection, remembered because an SDK writes the very same one again and again.

A head that is byte for byte the last one, up to the digits of its Content-Length, says what that one said. So neither
the parser nor the application has to read it anew: a request of it is cut out of what arrived, and what the application
concluded from the head alone waits in its memo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

MEMO = "llmguard.head"
"""Name of the scope extension: a dict for conclusions from the head, shared by requests that differ in nothing else."""

Message = MutableMapping[str, Any]

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,19})(?=[ \t]*\r\n)")
_LONGEST = 19


class KnownHead:
    """A head that the parser has passed, of a request whose connection stays open.

    ``scope`` is the request's own; each further request gets a copy with its own length.
    """

    __slots__ = ("_after", "_before", "_length_at", "_scope")

    def __init__(self, before: bytes, after: bytes, scope: Message) -> None:
        self._before = before
        self._after = after
        self._scope = scope
        self._length_at = [name for name, _ in scope["headers"]].index(b"content-length")

    def body_in(self, data: bytes) -> bytes | None:
        """The body, where ``data`` is exactly one whole request of this head; else None."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(self._after, start, start + _LONGEST + len(self._after))
        digits = data[start:end]
        body_at = end + len(self._after)
        if end < 0 or not digits.isdigit() or int(digits) != len(data) - body_at:
            return None
        return data[body_at:]

    def scope(self, length: int, state: Mapping[str, Any]) -> Message:
        """The scope of a request with a body of ``length`` bytes."""
        scope = dict(self._scope)
        headers = scope["headers"] = self._scope["headers"].copy()
        headers[self._length_at] = (b"content-length", b"%d" % length)
        scope["state"] = dict(state)
        return scope


def learn(data: bytes, body: int, scope: Message) -> KnownHead | None:
    """The head of a request that made up all of ``data`` with a body of ``body`` bytes; None for one without length."""
    raw = data[: len(data) - body]
    if raw.find(b"\r\n\r\n") != len(raw) - 4:  # there were other bytes around it
        return None
    found = list(_LENGTH.finditer(raw.lower()))
    if len(found) != 1:
        return None
    return KnownHead(raw[: found[0].start(1)], raw[found[0].end(1) :], scope)
