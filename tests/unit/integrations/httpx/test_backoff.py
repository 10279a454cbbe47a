"""Who waits, how long, and for what; time and chance are the test's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest

from llmguard.core.decision import Refuse
from llmguard.integrations.httpx.backoff import Backoff, retry_after

KIND = ("openai", "gpt-4o", "search", "chat")
OTHER = ("openai", "gpt-4o", "growth", "chat")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def rate(seconds: int = 1, **scope: str) -> Refuse:
    return Refuse("rate_limited", 429, "slow down", retry_after=seconds, rule="rpm", scope=scope or {"team": "search"})


def backoff(clock: Clock, chance: float = 0.0) -> Backoff:
    return Backoff(patience=10.0, clock=clock, chance=lambda: chance)


@pytest.mark.parametrize(
    "code", ["budget_exceeded", "budget_insufficient", "request_exceeds_budget", "runaway_tripped", "quota_unavailable"]
)
def test_what_waiting_does_not_mend_is_never_waited_for(code: str) -> None:
    waiting = backoff(Clock())
    assert waiting.refused(KIND, Refuse(code, 429, "no", retry_after=1), 0.0) is None
    assert waiting.before(KIND) == 0.0


def test_the_wait_is_what_the_guard_says_and_up_to_a_quarter_more() -> None:
    assert backoff(Clock()).refused(KIND, rate(2), 0.0) == 2.0
    assert backoff(Clock(), chance=1.0).refused(KIND, rate(2), 0.0) == 2.5


def test_one_call_waits_no_longer_than_its_patience_in_all() -> None:
    waiting = backoff(Clock())
    assert waiting.refused(KIND, rate(60), 0.0) is None
    assert waiting.refused(KIND, rate(4), 5.5) is None
    assert waiting.refused(KIND, rate(4), 4.9) is not None


def test_callers_that_are_refused_together_come_back_one_after_the_other() -> None:
    waiting = backoff(Clock())
    waits = [waiting.refused(KIND, rate(), 0.0) for _ in range(5)]
    assert waits == sorted(waits, key=lambda wait: wait or 0.0)
    gaps = [round((late or 0) - (early or 0), 3) for early, late in pairwise(waits)]
    assert gaps == [0.05, 0.1, 0.2, 0.4]  # every refusal doubles the pause


def test_a_new_call_of_the_kind_waits_its_turn_and_others_do_not() -> None:
    clock = Clock()
    waiting = backoff(clock)
    waiting.refused(KIND, rate(), 0.0)
    assert waiting.before(OTHER) == 0.0
    assert waiting.before(KIND) == pytest.approx(1.05)
    assert waiting.before(KIND) == pytest.approx(1.10)
    clock.now += 3
    assert waiting.before(KIND) == 0.0


def test_the_pace_recovers_step_by_step_and_then_costs_nothing() -> None:
    clock = Clock()
    waiting = backoff(clock)
    for _ in range(3):
        waiting.refused(KIND, rate(), 0.0)  # pauses of 0.2 s
    clock.now += 5
    for _ in range(9):
        waiting.went(KIND)
    assert (waiting._met, waiting._paces) == ({}, {})


def test_scopes_that_two_kinds_share_are_paced_together() -> None:
    waiting = backoff(Clock())
    assert waiting.refused(KIND, rate(team="*"), 0.0) == 1.0
    assert waiting.refused(OTHER, rate(team="*"), 0.0) == pytest.approx(1.05)


def test_what_a_provider_asks_for_holds_for_the_calls_that_follow() -> None:
    clock = Clock()
    waiting = backoff(clock)
    waiting.asked(KIND, 3.0)
    assert waiting.before(KIND) == 3.0
    waiting.asked(OTHER, 60.0)
    assert waiting.before(OTHER) == 0.0  # longer than a call may wait: the provider may say it again


def test_many_kinds_are_not_kept_for_ever() -> None:
    waiting = backoff(Clock())
    for number in range(2_500):
        waiting.refused(("openai", str(number)), rate(team=str(number)), 0.0)
    assert len(waiting._met) <= 1_000
    assert len(waiting._paces) <= 1_000


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, b"", 7.0),
        ({"retry-after": "0.5"}, b"", 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, b"", 0.25),
        ({"retry-after": "soon"}, b"", None),
        ({"retry-after": "-3"}, b"", None),
        ({}, b'{"error": {"details": [{"@type": "x"}, {"retryDelay": "12.5s"}]}}', 12.5),
        ({}, b'{"error": {"details": [{"retryDelay": 12}]}}', None),
        ({}, b'{"error": "retryDelay"}', None),
        ({}, b'{"retryDelay": ', None),
        ({}, b"", None),
    ],
)
def test_every_provider_says_in_its_own_way_how_long_to_wait(
    headers: dict[str, str], body: bytes, seconds: float | None
) -> None:
    assert retry_after(headers, body) == seconds


def test_a_date_is_read_as_a_time_from_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": soon}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
