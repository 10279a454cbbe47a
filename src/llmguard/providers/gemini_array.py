"""Gemini's streams without `alt=sse`: one JSON array whose elements arrive one after the other."""

from __future__ import annotations

import re

from llmguard.core.decision import Refuse
from llmguard.providers.gemini_reply import GeminiReader
from llmguard.providers.stream import HOLD
from llmguard.providers.torn import TornObject

_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
"""A whole string, a bracket, or the quote of a string that goes on in the next bytes."""
_STRING_END = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)


class ArrayReader(GeminiReader):
    """Reads a stream that is one JSON array, as Gemini sends it without `alt=sse`; its end is the closing bracket.

    Held back are that bracket, and the last chunk from the piece on in which it ends.
    """

    __slots__ = ("_at", "_begun", "_depth", "_quoted")

    def __init__(self, choices: int) -> None:
        super().__init__(choices)
        self._at = 0
        self._begun = False
        self._depth = 0
        self._quoted = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return those that may go out: the same object where nothing is held."""
        if self._flushed or not data:
            return data
        out, start = b"", 0
        while (end := self._next_end(data)) > 0:
            out += self._element(data[start:end])
            start = end
        self._at -= len(data)
        if self._flow is not None:
            self._flow.note(data[start:])
            out += self._pass(data[start:])
        elif start < len(data):
            self._tail += data[start:]
            out += self._rest(data[start:])
        return out if self._holding else data

    def cut(self, refuse: Refuse, request_id: str) -> bytes:
        """End the array with one more chunk, behind one that is not whole and now an error."""
        event, flow = bytes(self._tail[: self._sent]), self._flow
        self._tail.clear()
        back, chunk = self.flush(), self._error(refuse, request_id)
        if self.finished or (self._holding and flow is None):
            return back if self.finished else back + b"\n]"
        brace = event.find(b"{")
        if flow is not None or brace >= 0:
            torn = flow.torn if flow is not None else TornObject(event[brace:])
            before = torn.end(chunk) + b",\r\n"
        elif self._begun:
            before = b"" if b"," in event else b",\r\n"
        else:
            before = b"" if b"[" in event else b"["
        return back + before + b"{%b}\n]" % chunk

    def _next_end(self, data: bytes) -> int:
        """Scan on; the index after the next whole element or the closing bracket, 0 when there is none yet."""
        while True:
            found = (_STRING_END.match if self._quoted else _STRUCTURE.search)(data, self._at)
            if found is None:
                self._at = len(data) + (self._quoted and _ends_in_escape(data[self._at :]))
                return 0
            self._at = found.end()
            if self._quoted or len(found[0]) > 1:
                self._quoted = False
            elif found[0] == b'"':
                self._quoted = True
            elif found[0] in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 1:
                    return self._at

    def _element(self, data: bytes) -> bytes:
        """Read an element that ends with ``data``, or the closing bracket; the bytes that go out now."""
        text, sent, flow = bytes(self._tail) + data, self._sent, self._flow
        self._tail.clear()
        self._sent, self._flow = 0, None
        if self._depth <= 0:
            self.finished = self._holding = True
        elif flow is not None:
            flow.note(data)
            self._holding = self._overlong_end(flow.head, flow.window) is HOLD or self._holding
        else:
            self._holding = self._event(text[text.find(b"{") :]) is HOLD or self._holding
        self._begun = True
        return self._pass(text[sent:])

    def _free(self, event: bytearray) -> int:
        return len(event)


def _ends_in_escape(text: bytes) -> bool:
    return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
