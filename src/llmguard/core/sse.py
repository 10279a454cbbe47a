"""Server-sent events as bytes: where one ends, what it says, how to write one and go on with one that broke off.

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
    """The data of one event, or what there is of it so far; empty when it has none."""
    return next(iter(every_data(event + b"\n\n")), b"")


def every_data(block: bytes) -> list[bytes]:
    """The data of each event of a block, as :func:`split` finds them; blank lines left over do not count."""
    found: list[bytes] = []
    data: bytes | None = None
    is_event = False
    for line in block.splitlines() if b"\r" in block else block.split(b"\n"):
        if line[:6] == b"data: " and data is None:
            data, is_event = line[6:], True
        elif line:
            is_event = True
            field, _, value = line.removeprefix(_BOM).partition(b":")
            if field == b"data":
                value = value.removeprefix(b" ")
                data = value if data is None else data + b"\n" + value
        elif is_event:
            found.append(data or b"")
            data, is_event = None, False
    return found


def render(text: bytes, name: bytes = b"") -> bytes:
    """One event with a single line of data."""
    head = b"event: " + name + b"\n" if name else b""
    return head + b"data: " + text + b"\n\n"


def instead(torn: bytes, event: bytes) -> bytes:
    """What makes a torn event that has no data yet into another one."""
    line = _last_line(torn)
    return event[len(line) :] if event.startswith(line) else b"\n" + event


def before_data(torn: bytes) -> bytes:
    """What must come before more data of a torn event."""
    line = _last_line(torn)
    return b"" if line.startswith(b"data:") else b"\ndata: " if line else b"data: "


def _last_line(torn: bytes) -> bytes:
    return torn[max(torn.rfind(b"\n"), torn.rfind(b"\r")) + 1 :].removeprefix(_BOM)
