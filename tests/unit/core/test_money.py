"""Exact money."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmguard.core.money import FEMTO_PER_NANO, Price, Rates, nano_from_usd, usd_string
from llmguard.core.usage import Usage


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (-250_000_000, "-0.25"), (10**18, "1" + "0" * 9)],
)
def test_amounts_are_written_without_exponent_or_trailing_zeros(nano: int, text: str) -> None:
    assert usd_string(nano) == text
    assert nano_from_usd(text) == nano


def test_finer_than_a_nano_dollar_is_an_error() -> None:
    with pytest.raises(ValueError, match="finer than a nano-dollar"):
        nano_from_usd(Decimal("0.0000000001"))


def test_cache_reads_writes_and_audio_have_their_own_rates_and_the_sum_is_rounded_up_once() -> None:
    rates = Rates(
        input=5_000_001,
        output=15_000_000,
        cached_input=500_000,
        cache_write=6_250_000,
        cache_write_1h=10_000_000,
        input_audio=40_000_000,
        output_audio=80_000_000,
    )
    usage = Usage(
        input_tokens=1_000,
        output_tokens=100,
        cached_input_tokens=300,
        cache_write_tokens=200,
        cache_write_1h_tokens=50,
        input_audio_tokens=10,
        output_audio_tokens=20,
    )
    cost = Price(rates, "t").cost(usage)
    femto_in = 490 * 5_000_001 + 300 * 500_000 + 150 * 6_250_000 + 50 * 10_000_000 + 10 * 40_000_000
    femto_out = 80 * 15_000_000 + 20 * 80_000_000
    assert cost.total == -(-(femto_in + femto_out) // FEMTO_PER_NANO)
    assert cost.input + cost.output == cost.total


def test_pictures_that_cost_what_text_costs_may_be_cached_text() -> None:
    usage = Usage(1_000, 0, cached_input_tokens=900, input_image_tokens=600, input_video_tokens=100)
    assert Price(Rates(10**6, 1, cached_input=10**5), "t").cost(usage).total == 100 + 90
    apart = Rates(10**6, 1, input_image=2 * 10**6, input_video=5 * 10**6)
    assert Price(apart, "t").cost(Usage(1_000, 0, input_image_tokens=600, input_video_tokens=100)).total == 2_000
    assert (apart.dearest_media, Rates(1, 1).dearest_media) == (5 * 10**6, 0)


def test_the_tier_above_a_threshold_prices_the_whole_call() -> None:
    price = Price(Rates(1_000_000, 2_000_000), "t", tiers=((200_000, Rates(2_000_000, 3_000_000)),))
    assert price.cost(Usage(200_000, 10)).total == 200_020
    assert price.cost(Usage(200_001, 10)).total == 400_032


def test_searches_are_charged_one_by_one_beside_the_tokens() -> None:
    price = Price(Rates(1, 1), "t", per_web_search=10 * 10**12, per_file_search=25 * 10**11)
    assert price.cost(Usage(0, 0, web_searches=3)).total == 30_000_000  # $10 per thousand
    cost = price.cost(Usage(0, 0, web_searches=1, file_searches=2))
    assert (cost.total, cost.input, cost.output) == (15_000_000, 15_000_000, 0)
    assert price.cost(Usage(0, 0, web_searches=0)).total == 0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_cost_is_never_less_than_exact_and_never_a_whole_nano_more(
    i: int, o: int, rate_in: int, rate_out: int
) -> None:
    cost = Price(Rates(rate_in, rate_out), "t").cost(Usage(i, o))
    exact = i * rate_in + o * rate_out
    assert exact <= cost.total * FEMTO_PER_NANO < exact + FEMTO_PER_NANO
