"""Calendar windows of budgets: where one starts and ends in a named time zone.

Windows of one kind and zone follow each other without gap or overlap, also over clock changes: a day may be 23 or 25
hours, and each pass through a repeated hour is a window of its own. Every bound is a whole quarter of an hour in UTC,
because every offset in use is. The only thing read from outside is the time zone database.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

Window = Literal["hour", "day", "week", "month", "total"]

WINDOWS: Final[tuple[Window, ...]] = ("hour", "day", "week", "month", "total")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_HOUR_MS = 3_600_000


def window_bounds(window: Window, timezone: str, now_ms: int) -> tuple[int, int]:
    """The window that contains ``now_ms``, as ``[start, end)`` in UTC epoch milliseconds; `total` is ``(0, 0)``.

    Weeks start on Monday (ISO 8601). A midnight that the clock passes twice counts the first time; one that it skips
    is the moment of the jump. Raises :class:`zoneinfo.ZoneInfoNotFoundError` for an unknown zone.
    """
    if window == "total":
        return 0, 0
    zone = ZoneInfo(timezone)
    if window == "hour":
        return _hour(zone, now_ms)
    first = _first_day(window, _local(zone, now_ms).date())
    start, end = _midnight(zone, first), _midnight(zone, _next(window, first))
    while now_ms >= end:  # the clock went back over midnight, or skipped a whole day
        first = _next(window, first)
        start, end = end, _midnight(zone, _next(window, first))
    return start, end


def _hour(zone: ZoneInfo, now_ms: int) -> tuple[int, int]:
    offset = _offset_ms(zone, now_ms)
    start = now_ms - (now_ms + offset) % _HOUR_MS
    end = start + _HOUR_MS
    before = _offset_ms(zone, start)
    if (before - offset) % _HOUR_MS:  # a change by half an hour (Lord Howe) shortens the hour that follows it
        start += _HOUR_MS - (start + before) % _HOUR_MS
    return start, end


def _first_day(window: Window, day: date) -> date:
    if window == "week":
        return day - day.weekday() * _DAY
    return day.replace(day=1) if window == "month" else day


def _next(window: Window, first: date) -> date:
    if window == "month":
        return (first + 31 * _DAY).replace(day=1)
    return first + (7 * _DAY if window == "week" else _DAY)


def _midnight(zone: ZoneInfo, day: date) -> int:
    return (datetime(day.year, day.month, day.day, tzinfo=zone) - _EPOCH) // _MS


def _local(zone: ZoneInfo, at_ms: int) -> datetime:
    return (_EPOCH + at_ms * _MS).astimezone(zone)


def _offset_ms(zone: ZoneInfo, at_ms: int) -> int:
    offset = _local(zone, at_ms).utcoffset()
    assert offset is not None  # a ZoneInfo always knows its offset
    return offset // _MS
