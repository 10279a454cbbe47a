"""Events that are too large to keep a copy of."""

from __future__ import annotations

import json
from typing import Any

from llmguard.providers.torn import TornObject

HEAD = 4 * 1024
WINDOW = 64 * 1024


class Overlong:
    """An event of any size under way to the caller, of which only a little is remembered.

    ``head`` and ``window`` are its first and latest bytes, so that its kind and its usage can still be found; ``torn``
    can end it.
    """

    __slots__ = ("head", "torn", "window")

    def __init__(self, text: bytes) -> None:
        self.head = text[:HEAD]
        self.window = b""
        self.torn = TornObject()
        self.note(text)

    def note(self, data: bytes) -> None:
        """Look at the next bytes."""
        self.window = (self.window + data)[-WINDOW:]
        self.torn.feed(data if self.torn.started else data[max(data.find(b"{"), 0) :])


def usage_in(text: bytes | bytearray, key: bytes) -> dict[str, Any] | None:
    """The last complete object with the name ``key`` (quoted) near the end of a piece of JSON."""
    text = text[-WINDOW:]
    at = text.rfind(key)
    while at >= 0:
        value = text[at + len(key) :].lstrip(b" \t\r\n:").decode("utf-8", "replace")
        if value.startswith("{"):
            try:
                usage: dict[str, Any] = json.JSONDecoder().raw_decode(value)[0]
            except ValueError:
                return None
            return usage
        at = text.rfind(key, 0, at)
    return None
