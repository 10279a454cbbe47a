"""What a model costs at a provider's other tiers of service: `flex`, `priority`, `fast` …"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from typing import Final

from genai_prices.types import ModelInfo

from llmguard.core.money import AT_PLACE, PLAIN_TIERS, Price
from llmguard.pricing.convert import dearer, price_from_list

AUTO: Final = "auto"
"""OpenAI's word for the tier that its project is set to (API reference, `service_tier`)."""

_KEYS: Final = ("service_tier", "speed")
_DOCUMENTED: Final = {("google", "priority"): Fraction(9, 5)}
"""Tiers sold at a multiple of every model's plain price: Gemini API, "Priority inference"."""
_PREMIUMS: Final = {"fast": Fraction(5, 2), "priority": Fraction(5, 2)}
"""The most that a tier of this name costs of the plain price, for any model that the catalog lists with it."""
_DEAREST_PREMIUM: Final = Fraction(6)
"""The most that any tier costs: OpenAI's `ultrafast` (its guide "Ultrafast mode" and price of GPT-6 Astra)."""
_RESIDENCE: Final = Fraction(11, 10)
"""What Anthropic's models cost where they are bound to a place, of their price anywhere and at every tier: Anthropic's
price list, "Data residency pricing"."""
_PLACES: Final = ("us",)
_UNTOUCHED: Final = Fraction(1)


@dataclass(frozen=True, slots=True)
class Tiered:
    """A price at one tier, and how many times the plain price it is at most, never below one."""

    price: Price
    premium: Fraction = _UNTOUCHED


def at_tier(plain: Price, provider_id: str, info: ModelInfo | None, tier: str, now: datetime) -> Tiered:
    """The price of a model at ``tier``, which may name a place, too (see :data:`llmguard.core.money.AT_PLACE`).

    A tier that is not listed costs the plain price where its name promises no more, else the most that tiers of this
    name cost, with ``known`` False. ``auto`` costs the dearest tier that is listed.
    """
    word, _, place = tier.partition(AT_PLACE)
    tiered = _by_word(plain, provider_id, info, word, now)
    return _bound(tiered, place) if place else tiered


def _by_word(plain: Price, provider_id: str, info: ModelInfo | None, tier: str, now: datetime) -> Tiered:
    listed = _listed(plain, info, now) if info else {}
    if tier == AUTO:
        return max((Tiered(plain), *listed.values()), key=lambda tiered: tiered.premium)
    if tier in listed:
        return listed[tier]
    if tier in PLAIN_TIERS:
        return Tiered(plain)
    documented = _DOCUMENTED.get((provider_id, tier))
    if documented is not None:
        return Tiered(replace(dearer(plain, documented), version=f"{plain.version} {tier}"), documented)
    premium = _PREMIUMS.get(tier, _DEAREST_PREMIUM)
    return Tiered(replace(dearer(plain, premium), version=f"{plain.version} dearest tier", known=False), premium)


def _bound(tiered: Tiered, place: str) -> Tiered:
    price, known = dearer(tiered.price, _RESIDENCE), place in _PLACES
    version = f"{price.version} {place if known else 'dearest place'}"
    return Tiered(replace(price, version=version, known=known and price.known), tiered.premium * _RESIDENCE)


def _listed(plain: Price, info: ModelInfo, now: datetime) -> dict[str, Tiered]:
    """The tiers in force that have prices of their own."""
    found = {}
    for variant in info.price_variants or ():
        ((key, word), *others) = variant.when.items()
        if others or key not in _KEYS or not variant.prices.__dict__:
            continue
        if variant.constraint is None or variant.constraint.active(now):
            prices = info.get_prices(now, {key: word}).__dict__
            price = price_from_list(prices, f"{plain.version} {word}")
            if price is not None:
                found[word] = Tiered(price, _premium(plain, price))
    return found


def _premium(plain: Price, price: Price) -> Fraction:
    pairs = ((plain.rates.input, price.rates.input), (plain.rates.output, price.rates.output))
    return max(_UNTOUCHED, *(Fraction(now, before) for before, now in pairs if before))
