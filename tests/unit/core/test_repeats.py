"""Fingerprints, windows of counts, and a feature's usual pace."""

from __future__ import annotations

import pytest

from llmguard.core.repeats import SLOT_MS, Pace, Repeats, exact, similar

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"summarise order 17 of 2026-11-25T02:03:04", b"summarise order 4711 of 2025-01-01T23:59:59"),
        (b"id 018f0c6e-7b1a-7def-8123-456789abcdef!", b"id 7d444840-9dc0-11d1-b245-5ffdce74fad2!"),
        (b"commit 9fceb02d0ae5", b"commit 018d2e"),
    ],
)
def test_digits_ids_and_dates_make_no_difference_to_what_is_alike(one: bytes, other: bytes) -> None:
    assert similar(one) == similar(other)
    assert exact(one) != exact(other)


def test_other_words_do() -> None:
    assert similar(b"summarise the letter") != similar(b"translate the letter")


def test_a_window_begins_with_its_first_key_and_ends_whole() -> None:
    seen = Repeats(1_000)
    assert [seen.count("a", NOW), seen.count("b", NOW + 900), seen.count("a", NOW + 999)] == [1, 1, 2]
    assert [seen.count("a", NOW + 1_000), seen.count("b", NOW + 1_000)] == [1, 1]


def test_more_keys_than_there_is_room_for_are_not_counted() -> None:
    seen = Repeats(1_000)
    for key in range(20_000):
        seen.count(key, NOW)
    assert [seen.count("late", NOW), seen.count("late", NOW), seen.count(0, NOW)] == [1, 1, 2]


def slots(pace: Pace, *calls: int) -> None:
    for slot, number in enumerate(calls):
        for _ in range(number):
            pace.count(NOW + slot * SLOT_MS)


def test_a_pace_is_usual_after_an_hour_and_its_multiple_remarkable() -> None:
    pace = Pace()
    slots(pace, 50, 50, 50, 50, 50, 50)
    assert pace.limit(10) is None
    pace.count(NOW + 6 * SLOT_MS)
    assert (pace.limit(10), pace.limit(1), pace.calls) == (500, 100, 1)


def test_a_feature_that_pauses_is_expected_to_call_less() -> None:
    pace = Pace()
    slots(pace, 80, 80, 80, 80, 80, 80)
    pace.count(NOW + 106 * SLOT_MS)
    assert pace.limit(10) == 100
