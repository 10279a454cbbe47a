"""A moved clock is that of windows, limits, keys and ids alike."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest

import llmguard
from llmguard.guard import Guard
from llmguard.integrations.httpx import http_client
from llmguard.ledger.clock import now_ms as ledger_ms
from llmguard.runtime.ids import now_ms, uuid7
from llmguard.stores.memory import system_clock
from llmguard.testing import Clock, FakeProvider
from llmguard.testing.clock import CLOCKS

RULES = {
    "prices": {"openai/*": {"input": "$1/M", "output": "$1/M"}},
    "budgets": [{"name": "hourly", "scope": {"team": "search"}, "limit": "$0.50", "window": "hour", "overshoot": 0}],
}


def test_all_clocks_of_the_guard_are_moved(llmguard_clock: Clock) -> None:
    llmguard_clock.move_to(datetime(2030, 1, 1, tzinfo=UTC))
    llmguard_clock.advance("90s")
    ms = int(datetime(2030, 1, 1, 0, 1, 30, tzinfo=UTC).timestamp() * 1000)
    for now in (now_ms(), ledger_ms(), system_clock(), int(uuid7().replace("-", "")[:12], 16)):
        assert ms <= now < ms + 10_000
    assert llmguard_clock.now.isoformat().startswith("2030-01-01T00:01:3")


def test_afterwards_it_is_now_again() -> None:
    assert abs(now_ms() - time.time_ns() // 1_000_000) < 1_000


def test_a_time_without_a_zone_is_refused(llmguard_clock: Clock) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        llmguard_clock.move_to(datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="write a number and a unit"):
        llmguard_clock.advance("soon")


def test_no_module_reads_the_clock_on_its_own() -> None:
    home = Path(llmguard.__file__).parent
    readers = {
        str(file.relative_to(home.parent)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in home.rglob("*.py")
        if re.search(r"\btime\.time_ns\(", file.read_text())
    }
    assert readers - {"llmguard.testing.clock"} == set(CLOCKS)


@pytest.mark.llmguard(RULES)
def test_a_spent_budget_is_whole_again_in_the_next_window(
    llmguard_guard: Guard, llmguard_provider: FakeProvider, llmguard_clock: Clock
) -> None:
    llmguard_provider.reply(usage=(400_000, 90_000))
    with openai.OpenAI(http_client=http_client(team="search"), max_retries=0) as client:

        def ask() -> None:
            client.chat.completions.create(
                model="m", max_tokens=100_000, messages=[{"role": "user", "content": "x" * 400_000}]
            )

        ask()
        with pytest.raises(openai.APIStatusError) as caught:
            ask()
        assert caught.value.response.json()["error"]["code"] == "budget_insufficient"
        llmguard_clock.advance("1h")
        ask()
    assert len(llmguard_provider.requests) == 2
