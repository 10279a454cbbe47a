"""Server-sent events as bytes: where one ends, what it says, how to write one.

The format is that of the HTML standard, "9.2.6 Interpreting an event stream": lines end in LF, CRLF or CR; a blank line
ends an event; several ``data`` lines are joined by LF; one space after the colon is not part of the value; other fields
and comments mean nothing here.
"""

from __future__ import annotations

import re

_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_BOM = b"\xef\xbb\xbf"

LONGEST_END = 4
"""Bytes of the longest blank line with the line end before it (CRLF CRLF)."""


def first_end(block: bytes) -> int:
    """Index just after the first whole event in ``block``; 0 when no event ends here."""
    found = _EVENT_END.search(block)
    return found.end() if found else 0


def last_end(block: bytes) -> int:
    """Index just after the last whole event in ``block``; 0 when no event ends here.

    A CR at the very end counts as the end of its line: a LF that follows it in the next bytes is then a blank line of
    its own, which means nothing.
    """
    if b"\r" not in block:
        at = block.rfind(b"\n\n")
        return at + 2 if at >= 0 else 0
    end = 0
    for found in _EVENT_END.finditer(block):
        end = found.end()
    return end


def split(block: bytes) -> list[bytes]:
    """The events of a block that ends where an event ends, and blank lines left over; joined they are the block."""
    if b"\r" not in block:
        *whole, rest = block.split(b"\n\n")
        return [event + b"\n\n" for event in whole] + ([rest] if rest else [])
    events = []
    start = 0
    for found in _EVENT_END.finditer(block):
        events.append(block[start : found.end()])
        start = found.end()
    if start < len(block):
        events.append(block[start:])
    return events


def data(event: bytes) -> bytes:
    """The data of one event, empty when it has none."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)


def render(text: bytes, name: bytes = b"") -> bytes:
    """One event with a single line of data."""
    head = b"event: " + name + b"\n" if name else b""
    return head + b"data: " + text + b"\n\n"
