"""Rates over a short time, counted by the generic cell rate algorithm (GCRA) in whole numbers.

A meter fills by ``cost`` × ``period_ms`` a call and drains by ``limit`` a millisecond, so that it holds ``limit``
calls when full: the leaky-bucket form of GCRA (ITU-T I.371, annex A), with nothing to round.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.core.moves import Correct, Rate


class Meter:
    """How full one rate was at ``at``; ``empty_at`` is when it means nothing any more."""

    __slots__ = ("at", "empty_at", "used")

    def __init__(self, used: int, at: int, limit: int) -> None:
        self.used = used
        self.at = at
        self.empty_at = at - (-used // limit)


Meters = dict[str, Meter]


def used(meters: Meters, rate: Rate | Correct, now: int) -> int:
    """What is in the meter at ``now``, in calls × ``period_ms``."""
    meter = meters.get(rate.name)
    if meter is None:
        return 0
    return max(0, meter.used - max(0, now - meter.at) * rate.limit)


def wait_ms(meters: Meters, rate: Rate, now: int) -> int | None:
    """None when the call fits now, else the exact milliseconds until it would; 0 when it never will."""
    over = used(meters, rate, now) + (rate.cost - rate.limit) * rate.period_ms
    if over <= 0:
        return None
    return -(-over // rate.limit) if rate.cost <= rate.limit else 0


def fill(meters: Meters, rate: Rate | Correct, cost: int, now: int) -> None:
    """Add ``cost`` calls, or take them out when negative."""
    level = max(0, used(meters, rate, now) + cost * rate.period_ms)
    if level:
        meter = meters.get(rate.name)
        meters[rate.name] = Meter(level, max(now, meter.at) if meter else now, rate.limit)
    else:
        meters.pop(rate.name, None)


def left(meters: Meters, rates: Sequence[Rate], now: int) -> tuple[tuple[int, int], ...]:
    """Per rate: whole calls left, and milliseconds until it is empty again."""
    levels = [used(meters, rate, now) for rate in rates]
    return tuple(
        [
            ((rate.limit * rate.period_ms - level) // rate.period_ms, -(-level // rate.limit))
            for rate, level in zip(rates, levels, strict=True)
        ]
    )
