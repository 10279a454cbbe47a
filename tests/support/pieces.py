"""Streams in pieces: whether each piece goes out as it came in."""

from __future__ import annotations

import random
from collections.abc import Iterator

from llmguard.core import sse
from llmguard.core.ports import Reader


def random_pieces(body: bytes, dice: random.Random) -> Iterator[bytes]:
    """The body in pieces of all sizes, most of them smaller than an event."""
    at = 0
    while at < len(body):
        size = dice.choice((1, 2, 7, 30, 100, 250, 3_000))
        yield body[at : at + size]
        at += size


def terminal_start(reader: Reader, body: bytes) -> int:
    """Where the event begins that a fresh reader holds back when it gets event by event; the length without one."""
    at = 0
    end = sse.last_end(body)
    for event in (*sse.split(body[:end]), body[end:]):
        if len(reader.feed(event)) < len(event):
            return at
        at += len(event)
    return len(body)


def first_late_piece(reader: Reader, body: bytes, dice: random.Random, until: int, *, may_wait: bytes = b"") -> str:
    """What went wrong while the bytes before ``until`` passed; empty when each piece came out as it went in.

    Bytes of ``may_wait`` at the end of a piece may come with the next one. What is held at ``until`` is held to the
    end: the last byte of the body does not come out without `flush`.
    """
    arrived = released = 0
    for piece in random_pieces(body, dice):
        out = reader.feed(piece)
        is_held = arrived > released
        arrived += len(piece)
        released += len(out)
        waiting = body[released:arrived]
        if arrived <= until and waiting.strip(may_wait):
            return f"{waiting!r} waits at {released}"
        if arrived <= until and not is_held and not waiting and out is not piece:
            return f"another object came out at {released}"
        if arrived > until and released < until:
            return f"held from {released} instead of {until}"
    held = reader.flush()
    if body[:released] + held != body or (until < len(body) and not held):
        return "lost or let out too early"
    return ""
