"""What is held for a call, and the most it may cost."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.core.buckets import Bucket, room_in
from llmguard.core.call import Call
from llmguard.core.estimate import estimate
from llmguard.core.money import Price, Rates, nano_from_usd
from llmguard.core.moves import Level
from llmguard.core.ports import Quote

PER_MILLION = 10**9  # femto-USD per token of $1 per million
PRICE = Price(Rates(input=5 * PER_MILLION, output=15 * PER_MILLION), "test")
QUOTE = Quote(PRICE, 16_384, 128_000)


def call(**fields: Any) -> Call:
    base: dict[str, Any] = {"prompt_bytes": 4_000, "max_tokens": 100}
    names = ("openai_chat", "openai", "/v1/chat/completions", "POST", "/v1/chat/completions", "", {}, b"{}", "gpt-4o")
    return Call(*names, **(base | fields))


def bucket(unit: str) -> Bucket:
    return Bucket(f"{unit}|b", unit, 10**12, 11 * 10**11, 0, 0, "r", "total", {})


def test_money_of_a_call_that_names_max_tokens() -> None:
    guess = estimate(call(), QUOTE, 1_000)
    hold = guess.hold(bucket("usd"))
    assert hold.estimate == nano_from_usd("0.0065")  # 1,000 × $5/M + 100 × $15/M
    assert (hold.fixed, hold.per_output, guess.max_output) == (nano_from_usd("0.005"), 15_000, 100)


def test_tokens_count_input_and_every_choice() -> None:
    guess = estimate(call(choices=3), QUOTE, 1_000)
    hold = guess.hold(bucket("tokens"))
    assert (hold.estimate, hold.fixed, hold.per_output) == (1_300, 1_000, 3)


def test_without_max_tokens_1024_are_expected_and_the_model_maximum_is_the_cap() -> None:
    guess = estimate(call(max_tokens=None), QUOTE, None)
    assert (guess.input_tokens, guess.exact, guess.expected, guess.max_output) == (4_000, False, 1_024, 16_384)


def test_a_visible_stream_can_be_cut_so_its_cap_ends_a_step_after_what_is_expected() -> None:
    assert estimate(call(stream=True, max_tokens=50_000), QUOTE, 10).max_output == 2_048
    assert estimate(call(stream=True, max_tokens=60), QUOTE, 10).max_output == 60
    assert estimate(call(stream=True, max_tokens=50_000, hidden_output=True), QUOTE, 10).max_output == 50_000


def test_input_at_the_provider_counts_as_the_whole_context_in_the_cap_only() -> None:
    guess = estimate(call(server_context=True), QUOTE, 1_000)
    hold = guess.hold(bucket("tokens"))
    assert (hold.estimate, hold.fixed) == (1_100, 129_000)


def test_an_embedding_generates_nothing() -> None:
    guess = estimate(call(generates=False, max_tokens=None), QUOTE, 1_000)
    assert (guess.expected, guess.max_output, guess.fixed_nano) == (0, 0, nano_from_usd("0.005"))


@pytest.mark.parametrize(("writes", "nano"), [(False, 5_000), (True, 10_000)])
def test_a_prompt_that_writes_a_cache_is_held_at_the_write_rate(writes: bool, nano: int) -> None:
    price = Price(Rates(5 * PER_MILLION, 0, cache_write=6 * PER_MILLION, cache_write_1h=10 * PER_MILLION), "test")
    guess = estimate(call(writes_cache=writes, max_tokens=1), Quote(price, 10, 10), 1)
    assert guess.fixed_nano == nano


def test_a_bucket_with_room_for_fifty_calls_needs_no_exact_count() -> None:
    guess = estimate(call(), QUOTE, None)
    usd = bucket("usd")
    hold = guess.hold(usd)
    used = hold.limit - 50 * hold.estimate
    assert guess.fits_often([room_in(usd, Level(used, 0, 0, 0))])
    assert guess.fits_often([room_in(usd, Level(used - 2, 1, 1, 0))])
    assert not guess.fits_often([room_in(usd, Level(used - 1, 1, 1, 0))])
    exposed = hold.ceiling - 50 * (hold.fixed + hold.per_output * guess.max_output)
    assert guess.fits_often([room_in(usd, Level(0, 0, 0, exposed))])
    assert not guess.fits_often([room_in(usd, Level(0, 0, 0, exposed + 1))])


def test_a_strict_bucket_is_counted_exactly_much_earlier() -> None:
    guess = estimate(call(), QUOTE, None)
    strict = Bucket("b", "usd", 10**12, 10**12, 0, 0, "r", "total", {})
    hold = guess.hold(strict)
    used = 10**12 - 1_000 * hold.estimate
    cap = hold.fixed + hold.per_output * guess.max_output
    assert guess.fits_often([room_in(strict, Level(0, 0, used, 10**12 - 1_000 * cap))])
    assert not guess.fits_often([room_in(strict, Level(0, 0, used + 1, 0))])


def test_a_search_tool_holds_one_search_and_caps_all_that_it_may_make() -> None:
    price = Price(PRICE.rates, "test", per_web_search=10 * 10**12, per_file_search=25 * 10**11)
    quote = Quote(price, 16_384, 128_000)
    plain = estimate(call(), quote, 1_000)
    web = estimate(call(web_searches=5), quote, 1_000)
    assert (web.nano - plain.nano, web.cap_nano - plain.cap_nano) == (nano_from_usd("0.01"), nano_from_usd("0.05"))
    both = estimate(call(web_searches=1, file_searches=3), quote, 1_000)
    assert both.nano - plain.nano == nano_from_usd("0.0125")
    assert both.cap_nano - plain.cap_nano == nano_from_usd("0.0175")


@pytest.mark.parametrize(("audio", "nano"), [(False, 5_000), (True, 12_000)])
def test_media_that_may_have_a_rate_of_their_own_are_held_at_the_dearest(audio: bool, nano: int) -> None:
    rates = Rates(
        5 * PER_MILLION, 0, input_audio=7 * PER_MILLION, input_image=PER_MILLION, input_video=12 * PER_MILLION
    )
    guess = estimate(call(audio=audio, max_tokens=1), Quote(Price(rates, "test"), 10, 10), 1)
    assert guess.fixed_nano == nano
