"""From a price list's dollars per million to the core's exact femto-USD per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from llmguard.core.money import Price, Rates

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

    Listed = Decimal | TieredPrices

_FEMTO_PER_MILLION = 10**9  # 10^15 femto-USD a dollar / 10^6 tokens
_FEMTO_PER_THOUSAND = 10**12

_OUTPUT = ("output_mtok", "output_image_mtok", "output_video_mtok")
"""Usage does not tell these apart, so a reply is charged as the dearest that its model makes."""
_RATES = tuple(field.name for field in fields(Rates))


def femto_per_token(dollars_per_million: Decimal) -> int:
    """Exact down to a femto-dollar ($10^-9 a million tokens); anything finer is rounded up."""
    return int((dollars_per_million * _FEMTO_PER_MILLION).to_integral_value(ROUND_CEILING))


def femto_per_piece(dollars_per_thousand: Decimal) -> int:
    """The same for what is sold by the thousand: requests and searches."""
    return int((dollars_per_thousand * _FEMTO_PER_THOUSAND).to_integral_value(ROUND_CEILING))


def price_from_list(listed: Mapping[str, Listed], version: str) -> Price | None:
    """A price from genai-prices' keys; ``None`` where the list has no price per token (audio hours, pages, images).

    A model without a price for output (embeddings) has its output priced as input, so that nothing is ever free by
    omission.
    """
    base = _rates(listed, 0)
    if base is None:
        return None
    starts = {tier.start for value in listed.values() if not isinstance(value, Decimal) for tier in value.tiers}
    tiers = tuple((start, rates) for start in sorted(starts) if (rates := _rates(listed, start + 1)) is not None)

    def fee(key: str) -> int:
        return femto_per_piece(_dollars(listed, key, 0) or Decimal(0))

    return Price(
        base,
        version,
        tiers,
        fee("requests_kcount"),
        per_web_search=fee("web_searches_kcount"),
        per_file_search=fee("storage_searches_kcount"),
    )


def dearer(price: Price, factor: Fraction) -> Price:
    """The price with every rate of tokens multiplied; requests and searches cost the same."""

    def times(rates: Rates) -> Rates:
        known = {name: rate for name in _RATES if (rate := getattr(rates, name)) is not None}
        return replace(rates, **{name: ceil(rate * factor) for name, rate in known.items()})

    tiers = tuple((start, times(rates)) for start, rates in price.tiers)
    return replace(price, rates=times(price.rates), tiers=tiers)


def _rates(listed: Mapping[str, Listed], input_tokens: int) -> Rates | None:
    def femto(key: str) -> int | None:
        dollars = _dollars(listed, key, input_tokens)
        return None if dollars is None else femto_per_token(dollars)

    read = femto("input_mtok")
    written = [rate for key in _OUTPUT if (rate := femto(key)) is not None]
    if read is None:
        return None
    return Rates(
        input=read,
        output=max(written, default=read),
        cached_input=femto("cache_read_mtok"),
        cache_write=femto("cache_write_mtok"),
        cache_write_1h=femto("cache_write_1h_mtok"),
        input_audio=femto("input_audio_mtok"),
        cached_audio=femto("cache_audio_read_mtok"),
        output_audio=femto("output_audio_mtok"),
        input_image=femto("input_image_mtok"),
        input_video=femto("input_video_mtok"),
    )


def _dollars(listed: Mapping[str, Listed], key: str, input_tokens: int) -> Decimal | None:
    value = listed.get(key)
    if value is None or isinstance(value, Decimal):
        return value
    passed = [tier.price for tier in value.tiers if input_tokens > tier.start]
    return passed[-1] if passed else value.base
