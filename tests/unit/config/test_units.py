"""Sizes as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmguard.config.units import (
    Amount,
    Rate,
    Wrong,
    amount,
    duration,
    money,
    own_budget,
    price,
    rate,
    share,
    size,
    tokens,
)
from llmguard.core.rules import BudgetRule


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (money, "$0.50", 500_000_000),
        (money, "$1,000", 1_000 * 10**9),
        (money, "$ 0.000000001", 1),
        (money, "$0", 0),
        (tokens, "2M tokens", 2_000_000),
        (tokens, "1.5k tokens", 1_500),
        (tokens, "1 token", 1),
        (tokens, "3B tokens", 3 * 10**9),
        (amount, "$50", Amount("usd", 50 * 10**9)),
        (amount, "500k tokens", Amount("tokens", 500_000)),
        (price, "$1/M", 10**9),
        (price, "$0.1/M", 10**8),
        (price, "$2.50 / M tokens", 2_500_000_000),
        (price, "$0.003/K", 3 * 10**9),
        (duration, "500ms", 500),
        (duration, "15m", 900_000),
        (duration, "7d", 7 * 86_400_000),
        (size, "10MiB", 10 * 2**20),
        (size, "64 KB", 64_000),
        (share, "50%", 500_000),
        (share, "0.5%", 5_000),
        (share, 0, 0),
        (share, "0", 0),
        (rate, "600/minute", Rate("rate", 600, 60_000)),
        (rate, "600 per minute", Rate("rate", 600, 60_000)),
        (rate, "20/10 minutes", Rate("rate", 20, 600_000)),
        (rate, "5/second", Rate("rate", 5, 1_000)),
        (rate, "50 concurrent", Rate("concurrent", 50)),
        (rate, "100000 tokens/minute", Rate("tokens", 100_000, 60_000)),
        (rate, "100k tokens per 2 minutes", Rate("tokens", 100_000, 120_000)),
    ],
)
def test_sizes(parse: Callable[[object], object], text: object, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (money, "0.50"),
        (money, 0.5),
        (money, "$-1"),
        (money, "$0.0000000001"),
        (money, "$1e3"),
        (tokens, "2M"),
        (tokens, "0.5 tokens"),
        (amount, 50),
        (amount, "$0"),
        (amount, "-$5"),
        (amount, "0 tokens"),
        (price, "$1"),
        (price, "1/M"),
        (price, "$0.0000000001/M"),
        (duration, "15"),
        (duration, "15 minutes"),
        (duration, 15),
        (size, "10"),
        (size, "10 mib"),
        (share, "101%"),
        (share, 0.1),
        (share, 10),
        (share, True),
        (share, False),
        (rate, "600"),
        (rate, "600/fortnight"),
        (rate, "0/minute"),
        (rate, "0 concurrent"),
        (rate, "10/second; 100/minute"),
        (rate, 600),
    ],
)
def test_what_is_no_size_says_what_one_looks_like(parse: Callable[[object], object], text: object) -> None:
    with pytest.raises(Wrong) as caught:
        parse(text)
    assert caught.value.why
    assert any(word in caught.value.fix for word in ("write", "give"))


def test_a_keys_own_budget() -> None:
    assert own_budget("k1", "$5/day") == BudgetRule("key k1", {"key": "k1"}, 5 * 10**9, "usd", "day")
    assert own_budget("k1", "2M tokens / month").window == "month"
    assert own_budget("k1", "$500").window == "total"
    with pytest.raises(Wrong):
        own_budget("k1", "5/day")
