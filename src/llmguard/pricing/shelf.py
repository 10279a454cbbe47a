"""The price list shipped with genai-prices: the only module that knows that package.

Importing it costs some 25 MB and 0.4 s, so :mod:`llmguard.pricing.catalog` imports it at the first question. Nothing
here goes to the network: the list is the one inside the installed package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from functools import cache, lru_cache
from typing import Final

import genai_prices
from genai_prices.data import providers as _PROVIDERS
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TimeOfDateConstraint

from llmguard.core.money import Price, Rates
from llmguard.pricing.convert import price_from_list
from llmguard.pricing.fees import DEAREST_FILE, DEAREST_WEB, with_search_fees
from llmguard.pricing.service_tiers import Tiered, at_tier

_VERSION: Final = f"genai-prices {genai_prices.__version__}"
_BY_FAMILY: Final = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
_PATH: Final = "models/"
_FREE: Final = Price(Rates(0, 0), f"{_VERSION} free")


@dataclass(frozen=True, slots=True)
class Listing:
    """What is listed for one model today. ``until`` is when the price may change within the day.

    ``premium`` is how many times the plain price the price of the tier is at most; ``listed`` whether the model has a
    price of its own.
    """

    price: Price
    premium: Fraction
    listed: bool
    context_window: int | None = None
    until: datetime | None = None


def look_up(
    name: str, base_url: str | None, family: str, model: str, now: datetime, tier: str | None = None
) -> Listing:
    """The listing of a model by any of its names (`gpt-4o-2024-08-06`, `models/gemini-2.5-pro`), in lower case.

    ``name``, ``base_url`` and ``family`` are the configured provider's. A model that is not listed, has no price per
    token, or is listed at nothing without being called `…:free`, gets its provider's dearest known price. Raises
    KeyError for a family that no listed provider stands for.
    """
    provider = _find_provider(name.lower(), base_url, family)
    worst = _dearest(provider.id, now.date())
    info = _find_model(provider, model)
    price = _price(info, now) if info else None
    listed = price is not None and _costs(price)
    if price is None or not listed:
        price = _FREE if info and model.endswith(":free") else worst
    # Models that a provider borrows from another one's list have no tiers there.
    own = info if any(info is model for model in provider.models) else None
    tiered = Tiered(price) if tier is None else at_tier(price, provider.id, own, tier, now)
    price = with_search_fees(tiered.price, model, worst)
    if info is None:
        return Listing(price, tiered.premium, listed)
    return Listing(price, tiered.premium, listed, info.context_window, _next_change(info, now))


@cache
def _find_provider(name: str, base_url: str | None, family: str) -> Provider:
    """By its id, by its address, by a name that contains a known one, by family."""
    return (
        next((p for p in _PROVIDERS if p.id == name), None)
        or (_by_address(base_url) if base_url else None)
        or find_provider_by_id(_PROVIDERS, name)
        or _by_id(_BY_FAMILY[family])
    )


def _by_address(base_url: str) -> Provider | None:
    return next((p for p in _PROVIDERS if re.match(p.api_pattern, base_url)), None)


def _by_id(provider_id: str) -> Provider:
    return next(p for p in _PROVIDERS if p.id == provider_id)


def _find_model(provider: Provider, model: str) -> ModelInfo | None:
    info = provider.find_model(model, all_providers=_PROVIDERS)
    if info is None and _PATH in model:
        info = provider.find_model(model.rpartition(_PATH)[2], all_providers=_PROVIDERS)
    return info


@lru_cache(maxsize=64)
def _dearest(provider_id: str, day: date) -> Price:
    """The highest rate of each kind known for any model that the provider serves, at any hour of the day.

    A part of the prompt or reply (cached, audio) is priced on its own only where that is dearer than the whole, so an
    unknown model never undercuts a known one.
    """
    prices = list(_known_prices(_by_id(provider_id), datetime.combine(day, time(), UTC)))
    rates = [rates for price in prices for rates in (price.rates, *(tier for _, tier in price.tiers))]
    read, written = max(r.input for r in rates), max(r.output for r in rates)

    def dearer(kind: str, than: int) -> int | None:
        highest = max(getattr(r, kind) or 0 for r in rates)
        return highest if highest > than else None

    worst = Rates(
        input=read,
        output=written,
        cache_write=dearer("cache_write", read),
        cache_write_1h=dearer("cache_write_1h", read),
        input_audio=dearer("input_audio", read),
        output_audio=dearer("output_audio", written),
        input_image=dearer("input_image", read),
        input_video=dearer("input_video", read),
    )
    return Price(
        worst,
        f"{_VERSION} dearest",
        per_request=max(price.per_request for price in prices),
        known=False,
        per_web_search=max(price.per_web_search for price in prices) or DEAREST_WEB,
        per_file_search=max(price.per_file_search for price in prices) or DEAREST_FILE,
    )


def _known_prices(provider: Provider, now: datetime) -> Iterator[Price]:
    served = [provider, *map(_by_id, provider.fallback_model_providers or ())]
    for info in (info for source in served for info in source.models):
        listed = [_active(info, now)[0]]
        if not isinstance(info.prices, ModelPrice):
            listed += [c.prices for c in info.prices if isinstance(c.constraint, TimeOfDateConstraint)]
        for prices in listed:
            if (price := price_from_list(prices.__dict__, _VERSION)) is not None:
                yield price


def _price(info: ModelInfo, now: datetime) -> Price | None:
    listed, start = _active(info, now)
    return price_from_list(listed.__dict__, f"{_VERSION} {start}" if start else _VERSION)


def _active(info: ModelInfo, now: datetime) -> tuple[ModelPrice, str | None]:
    """The price in force (the last one listed whose condition holds, else the first) and the day it started."""
    if isinstance(info.prices, ModelPrice):
        return info.prices, None
    for conditional in reversed(info.prices):
        condition = conditional.constraint
        if condition is None or condition.active(now):
            start = condition.start_date.isoformat() if isinstance(condition, StartDateConstraint) else None
            return conditional.prices, start
    return info.prices[0].prices, None


def _next_change(info: ModelInfo, now: datetime) -> datetime | None:
    """When a price that depends on the time of day changes next."""
    if isinstance(info.prices, ModelPrice):
        return None
    times = [t for c in info.prices if isinstance(c.constraint, TimeOfDateConstraint) for t in _edges(c.constraint)]
    moments = [datetime.combine(now.date() + timedelta(days), t) for t in times for days in (0, 1)]
    return min((m for m in moments if m > now), default=None)


def _edges(constraint: TimeOfDateConstraint) -> list[time]:
    return [t if t.tzinfo else t.replace(tzinfo=UTC) for t in (constraint.start_time, constraint.end_time)]


def _costs(price: Price) -> bool:
    every = (price.rates, *(rates for _, rates in price.tiers))
    return price.per_request > 0 or any(rates.input or rates.output for rates in every)
