"""Calendar windows over clock changes, odd offsets and every zone of the database."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pytest

from llmguard.core.windows import WINDOWS, Window, window_bounds

HOUR = 3_600_000
QUARTER = 900_000


def ms(text: str) -> int:
    """An ISO time with offset as epoch milliseconds."""
    return int(datetime.fromisoformat(text).timestamp()) * 1000


@pytest.mark.parametrize(
    ("window", "zone", "now", "start", "end"),
    [
        ("hour", "UTC", "2026-11-24T10:59:59+00:00", "2026-11-24T10:00:00+00:00", "2026-11-24T11:00:00+00:00"),
        ("hour", "Asia/Kolkata", "2026-11-24T10:15:00+05:30", "2026-11-24T10:00:00+05:30", "2026-11-24T11:00:00+05:30"),
        ("hour", "Asia/Kathmandu", "2026-01-01T00:10+05:45", "2026-01-01T00:00+05:45", "2026-01-01T01:00+05:45"),
        ("day", "Europe/Berlin", "2026-07-01T00:00+02:00", "2026-07-01T00:00+02:00", "2026-07-02T00:00+02:00"),
        ("day", "America/New_York", "2026-12-31T23:59-05:00", "2026-12-31T00:00-05:00", "2027-01-01T00:00-05:00"),
        ("day", "Pacific/Chatham", "2026-06-05T13:00+12:45", "2026-06-05T00:00+12:45", "2026-06-06T00:00+12:45"),
        ("week", "UTC", "2026-11-24T00:00+00:00", "2026-11-23T00:00+00:00", "2026-11-30T00:00+00:00"),
        ("week", "Europe/Berlin", "2026-10-25T23:00+01:00", "2026-10-19T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("month", "UTC", "2028-02-29T12:00+00:00", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        ("month", "Asia/Tokyo", "2026-12-31T23:00+09:00", "2026-12-01T00:00+09:00", "2027-01-01T00:00+09:00"),
    ],
)
def test_bounds(window: Window, zone: str, now: str, start: str, end: str) -> None:
    assert window_bounds(window, zone, ms(now)) == (ms(start), ms(end))


def test_total_has_no_bounds() -> None:
    assert window_bounds("total", "UTC", ms("2026-11-24T00:00+00:00")) == (0, 0)


def test_unknown_zone_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        window_bounds("day", "Europe/Atlantis", 0)


@pytest.mark.parametrize(
    ("zone", "noon", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", 25),
        ("America/New_York", "2026-03-08T12:00-04:00", 23),
        ("America/New_York", "2026-11-01T12:00-05:00", 25),
        ("Australia/Lord_Howe", "2026-04-05T12:00+10:30", 24.5),
        ("Australia/Lord_Howe", "2026-10-04T12:00+11:00", 23.5),
        ("America/Havana", "2026-03-08T12:00-04:00", 23),  # midnight itself is skipped
        ("America/Havana", "2026-11-01T12:00-05:00", 25),  # midnight comes twice
        ("America/Sao_Paulo", "2018-02-17T12:00-02:00", 25),  # 24:00 goes back to 23:00
    ],
)
def test_days_of_clock_changes(zone: str, noon: str, hours: float) -> None:
    start, end = window_bounds("day", zone, ms(noon))
    assert (end - start) / HOUR == hours


def test_a_repeated_hour_is_two_windows() -> None:
    first = window_bounds("hour", "Europe/Berlin", ms("2026-10-25T02:30+02:00"))
    second = window_bounds("hour", "Europe/Berlin", ms("2026-10-25T02:30+01:00"))
    assert first[1] == second[0]
    assert second[1] - second[0] == HOUR


def test_a_day_that_the_calendar_skipped_is_no_window() -> None:
    before = window_bounds("day", "Pacific/Apia", ms("2011-12-29T12:00-10:00"))
    after = window_bounds("day", "Pacific/Apia", ms("2011-12-31T12:00+14:00"))
    assert before[1] == after[0]


def test_a_clock_that_goes_back_over_midnight_keeps_the_day_it_reached() -> None:
    """St John's changed at 00:01 until 2011: the second 23:30 is after the first midnight."""
    start, end = window_bounds("day", "America/St_Johns", ms("2010-11-06T23:30-03:30"))
    assert start == ms("2010-11-07T00:00-02:30")
    assert start <= ms("2010-11-06T23:30-03:30") < end


@pytest.mark.parametrize("window", [w for w in WINDOWS if w != "total"])
def test_windows_tile_time_in_every_zone(window: Window) -> None:
    """From one window's end the next begins there, in every zone, and every bound is a quarter hour."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    zones = sorted(available_timezones() - {"localtime", "Factory"})
    for zone in rng.sample(zones, 60):
        now = ms("2025-01-01T00:00+00:00") + rng.randrange(2 * 365 * 24) * HOUR
        for _ in range(40):
            start, end = window_bounds(window, zone, now)
            assert start <= now < end, (zone, now)
            assert start % QUARTER == end % QUARTER == 0, (zone, now)
            inside = rng.randrange(start, end)
            assert window_bounds(window, zone, inside) == (start, end), (zone, inside)
            assert window_bounds(window, zone, end - 1) == (start, end), (zone, end)
            assert window_bounds(window, zone, end)[0] == end, (zone, end)
            now = end


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Europe/Berlin", "America/Havana", "Africa/Casablanca"])
def test_hours_tile_whole_years(zone: str) -> None:
    now = ms("2026-01-01T00:00+00:00")
    starts = []
    while now < ms("2027-01-01T00:00+00:00"):
        start, now = window_bounds("hour", zone, now)
        starts.append(start)
    lengths = {after - before for before, after in pairwise(starts)}
    assert lengths <= {HOUR, HOUR // 2}
    assert all(datetime.fromtimestamp(s / 1000, UTC).astimezone(ZoneInfo(zone)).minute in (0, 30) for s in starts)
