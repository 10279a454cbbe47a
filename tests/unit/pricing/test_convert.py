"""Our integers against the price list's own arithmetic, for every model in it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelPrice
from genai_prices.types import Usage as ListedUsage

from llmguard.core.money import NANO
from llmguard.core.usage import Usage
from llmguard.pricing.convert import femto_per_token, price_from_list

MODELS = [(p, m) for p in providers for m in p.models]
WHEN = [datetime(2025, 6, 1, 3, tzinfo=UTC), datetime(2026, 11, 24, 12, tzinfo=UTC)]


def test_rates_are_exact() -> None:
    assert femto_per_token(Decimal("0.0125")) == 12_500_000
    assert femto_per_token(Decimal("0.000000001")) == 1
    assert femto_per_token(Decimal("0.18000000000000002")) == 180_000_001  # finer than a femto-dollar: up


def test_a_list_without_token_prices_is_no_price() -> None:
    assert price_from_list({"audio_hours": Decimal("0.36")}, "v") is None
    assert price_from_list({}, "v") is None


@pytest.mark.parametrize("now", WHEN, ids=str)
@pytest.mark.parametrize(
    ("tokens", "output", "cached", "written", "written_1h"),
    [(1_000, 500, 0, 0, 0), (250_001, 12_345, 100_000, 50_000, 0), (300_000, 1, 0, 70_000, 20_000)],
)
def test_costs_equal_the_price_lists_own(
    now: datetime, tokens: int, output: int, cached: int, written: int, written_1h: int
) -> None:
    compared = 0
    for provider, model in MODELS:
        listed = model.get_prices(now)
        price = price_from_list(listed.__dict__, "v")
        keys = listed.__dict__.keys()
        if price is None or "output_mtok" not in keys or any("_image_" in k or "_video_" in k for k in keys):
            continue
        if cached and "cache_read_mtok" not in keys:
            continue
        if written and not {"cache_write_mtok", "cache_write_1h_mtok"} <= keys:
            continue
        usage = ListedUsage(
            input_tokens=tokens,
            output_tokens=output,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
            output_reasoning_tokens=0,
            output_citation_tokens=0,
            input_audio_tokens=0,
            output_audio_tokens=0,
            cache_audio_read_tokens=0,
        )
        theirs = model.calc_price(usage, provider, genai_request_timestamp=now)
        ours = price.cost(Usage(tokens, output, cached, written, cache_write_1h_tokens=written_1h))
        exact = theirs.total_price * NANO
        if all(_fits_a_femto(number) for number in _numbers(listed)):
            assert ours.total == int(exact.to_integral_value(ROUND_CEILING)), (provider.id, model.id)
        else:
            assert 0 <= ours.total - exact < 2, (provider.id, model.id)
        compared += 1
    assert compared > (20 if written else 500)


def _numbers(listed: ModelPrice) -> list[Decimal]:
    values = listed.__dict__.values()
    return [n for v in values for n in ([v] if isinstance(v, Decimal) else [v.base, *(t.price for t in v.tiers)])]


def _fits_a_femto(number: Decimal) -> bool:
    return number * NANO == int(number * NANO)
