"""Answers as the script writes them: one function for each kind, in the order of the kinds' numbers.

``read`` gives the reply's next value; what else an answer needs comes from the move that it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmguard.core.moves import Admitted, Again, Answer, Denied, Done, Known, Level, Move, Renew, Reserve, Turn
from llmguard.core.runs import Enter, Entered, Peek, Seen, Standing, Verdict

_REFUSED = ("", "too_large", "spent", "insufficient", "contended", "tripped", "concurrency", "rate", "tally")
VERDICTS: tuple[Verdict, ...] = (
    "go",
    "tripped",
    "done",
    "running",
    "paid",
    "lost",
    "tally",
    "breaker",
    "retry_budget",
)
_AGAIN = ("", "cold", "stale", "window", "gone")

Read = Callable[[], Any]


def read_levels(read: Read, count: int) -> tuple[Level, ...]:
    """The next ``count`` levels of a reply."""
    return tuple([Level(read(), read(), read(), read()) for _ in range(count)]) if count else ()


def _pairs(read: Read, count: int) -> tuple[tuple[int, int], ...]:
    return tuple([(read(), read()) for _ in range(count)]) if count else ()


def _admitted(read: Read, move: Reserve, now: int, seq: int) -> Answer:
    max_output, again = read(), read()
    rates = _pairs(read, len(move.rates))
    counts = tuple([read() for _ in move.tallies]) if move.tallies else ()
    crossed = _pairs(read, read())
    return Admitted(now, seq, None if max_output < 0 else max_output, (), rates, again == 1, crossed, counts)


def _denied(read: Read, move: Move, now: int, seq: int) -> Answer:
    why, index, retry_ms = _REFUSED[read()], read(), read()
    level = read_levels(read, 1)[0] if read() else None
    return Denied(now, why, index, level, retry_ms, _pairs(read, read()))


def _done(read: Read, move: Move, now: int, seq: int) -> Answer:
    changed, gone = read() == 1, read()
    if not gone:
        return Done(now, changed)
    rids = move.rids if isinstance(move, Renew | Known) else ()
    return Done(now, changed, (), tuple([rids[read()] for _ in range(gone)]))


def _again(read: Read, move: Move, now: int, seq: int) -> Answer:
    return Again(now, _AGAIN[read()])


def _turn(read: Read, move: Move, now: int, seq: int) -> Answer:
    return Turn(now, read())


def _entered(read: Read, move: Enter, now: int, seq: int) -> Answer:
    verdict, index, paid, started, lost, running, opened = VERDICTS[read() - 1], *[read() for _ in range(6)]
    counts = tuple([read() for _ in move.tallies]) if verdict == "go" else ()
    warned = tuple([VERDICTS[read() - 1] for _ in range(read())])
    return Entered(now, verdict, index, paid, started, lost, running, opened == 1, counts, warned)


def _seen(read: Read, move: Peek, now: int, seq: int) -> Answer:
    return Seen(now, tuple([_standing(read) for _ in move.names]))


def _standing(read: Read) -> Standing:
    until = read()
    counts = tuple(sorted([(_text(read()), int(read())) for _ in range(read())]))
    paid, started, lost, running, done, open_until, ended, failed = [read() for _ in range(8)]
    return Standing(
        None if until < 0 else until,
        counts,
        paid,
        started,
        lost,
        running,
        done == 1,
        open_until or None,
        ended,
        failed,
    )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


DECODERS: tuple[Callable[[Read, Any, int, int], Answer], ...] = (
    _again,
    _admitted,
    _denied,
    _done,
    _again,
    _turn,
    _entered,
    _seen,
)
