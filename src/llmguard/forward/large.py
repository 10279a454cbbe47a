"""Usage of a whole reply that is too large to hold: found at its two ends, while it flows on."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from llmguard.core.exchange import Exchange

_EDGE = 64 * 1024
_OBJECTS = ("usage", "usageMetadata")
_NAMES = ("id", "model", "modelVersion")


class LargeReply:
    """Keeps the first and last 64 KiB of a JSON reply.

    Providers write `id`, `model` and `usage` beside the bulky member (vectors, images), so they stand within reach of
    one end.
    """

    def __init__(self) -> None:
        self.size = 0
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0

    def feed(self, data: bytes) -> None:
        """Note the next bytes."""
        self.size += len(data)
        if len(self._head) < _EDGE:
            self._head += data[: _EDGE - len(self._head)]
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= _EDGE:
            self._tail_size -= len(self._tail.popleft())

    def end(self, x: Exchange, content_type: str, now: int) -> None:
        """All of it has passed: have it metered by its digest, which is nothing to answer others with."""
        if x.tape is not None:
            x.tape.content_type = None
        x.whole(content_type, self.digest(), now)
        x.bytes_out = self.size

    def digest(self) -> bytes:
        """A small JSON document with the members found, for the dialect's reader."""
        head, tail = bytes(self._head), b"".join(self._tail)
        found: dict[str, Any] = {}
        for name in _OBJECTS:
            value = _last(tail, name, dict) or _last(head, name, dict)
            if value is not None:
                found[name] = value
        for name in _NAMES:
            value = _first(head, name) or _last(tail, name, str)
            if value is not None:
                found[name] = value
        return json.dumps(found).encode()


def _first(text: bytes, name: str) -> Any:
    at = text.find(f'"{name}"'.encode())
    return None if at < 0 else _value(text, at + len(name) + 2, str)


def _last(text: bytes, name: str, wanted: type) -> Any:
    at = text.rfind(f'"{name}"'.encode())
    while at >= 0:
        value = _value(text, at + len(name) + 2, wanted)
        if value is not None:
            return value
        at = text.rfind(f'"{name}"'.encode(), 0, at)
    return None


def _value(text: bytes, at: int, wanted: type) -> Any:
    """The JSON value behind a member name, if it is of the wanted type."""
    rest = text[at : at + 16 * 1024].lstrip()
    if not rest.startswith(b":"):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(rest[1:].lstrip().decode("utf-8", "ignore"))
    except ValueError:
        return None
    return value if isinstance(value, wanted) else None
