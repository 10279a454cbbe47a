"""Gemini's streams without `alt=sse`: one JSON array whose elements arrive one after the other."""

from __future__ import annotations

import re

from llmguard.core.decision import Refuse
from llmguard.providers.gemini_reply import GeminiReader, error_member
from llmguard.providers.stream import MAX_HELD, Fate, Flow, usage_in

_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
"""A whole string, a bracket, or the quote of a string that goes on in the next bytes."""
_STRING_END = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)


class ArrayReader(GeminiReader):
    """Reads a stream that is one JSON array, as Gemini sends it without `alt=sse`; its end is the closing bracket.

    Chunks go out whole, with the separator before them; what is larger than ``MAX_HELD`` flows on.
    """

    __slots__ = ("_at", "_depth", "_quoted", "_sent")

    def __init__(self, choices: int) -> None:
        super().__init__(choices)
        self._at = 0
        self._depth = 0
        self._quoted = False
        self._sent = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return those that may go out."""
        if self._flushed:
            return data
        buffer = bytes(self._tail) + data
        out, start = b"", 0
        while (end := self._next_end(buffer)) > 0:
            out += self._element(buffer[start:end])
            start = end
        rest = buffer[start:]
        self._at -= start
        if self._flow is None and len(rest) > MAX_HELD:
            self._flow = Flow(rest[:0])
        if self._flow is not None:
            out += self._pass(self._flow.take(rest[: self._at]))
            rest, self._at, self._sent = rest[self._at :], 0, True
        self._tail[:] = rest
        return data if len(out) == len(data) and not start < len(buffer) else out

    def cut(self, refuse: Refuse, request_id: str) -> bytes:
        """End the array with one more chunk; one that is not whole is dropped, or ended where a part of it is out."""
        if self.finished:
            return self.flush()
        self._tail.clear()
        flow, self._flow = self._flow, None
        torn = flow.end(error_member(refuse, request_id)) if flow is not None else b""
        back = self.flush() + torn
        if self._holding:
            return back + b"\n]"
        return back + (b",\r\n" if self._sent else b"[") + self.last_chunk(refuse, request_id) + b"\n]"

    def _next_end(self, buffer: bytes) -> int:
        """Scan on; the index after the next whole element or the closing bracket, 0 when there is none yet."""
        while True:
            found = (_STRING_END.match if self._quoted else _STRUCTURE.search)(buffer, self._at)
            if found is None:
                self._at = len(buffer) - (self._quoted and _ends_in_escape(buffer))
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

    def _element(self, text: bytes) -> bytes:
        """Read an element with what stands before it, or the closing bracket; the bytes that go out now."""
        if self._depth <= 0:
            self.finished = self._holding = True
        elif self._flow is not None:
            flow, self._flow = self._flow, None
            text = flow.take(text) + flow.rest()
            self._overlong_end(flow.head, usage_in(flow.window, self.USAGE_KEY))
        else:
            self._sent = True
            fate = self._event(text[text.find(b"{") :])
            self._holding = self._holding or fate is Fate.HOLD
        return self._pass(text)


def _ends_in_escape(text: bytes) -> bool:
    return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
