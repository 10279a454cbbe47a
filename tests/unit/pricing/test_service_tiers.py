"""Prices of other tiers of service, and what is assumed of a tier that nobody lists."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from genai_prices.data import providers

from llmguard.core.money import Price, Rates
from llmguard.pricing import Catalog, Origin, Override
from llmguard.pricing.fees import DEAREST_FILE, DEAREST_WEB
from llmguard.pricing.service_tiers import _DEAREST_PREMIUM, _DOCUMENTED, _PREMIUMS, _listed
from llmguard.pricing.shelf import _price

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DOLLAR = 10**9
PER_THOUSAND = 10**12

ORIGINS = {
    "openai": Origin("openai", "https://api.openai.com/v1"),
    "azure": Origin("openai", "https://x.openai.azure.com"),
    "xai": Origin("openai", "https://api.x.ai/v1"),
    "groq": Origin("openai", "https://api.groq.com/openai/v1"),
    "openrouter": Origin("openai", "https://openrouter.ai/api/v1"),
    "anthropic": Origin("anthropic"),
    "gemini": Origin("gemini"),
    "local": Origin("openai", "http://127.0.0.1:9000/v1"),
    "sandbox": Origin("sandbox"),
}


def price(provider: str, model: str, tier: str | None = None, *overrides: Override) -> Price:
    return Catalog(ORIGINS, overrides, clock=NOW.timestamp).quote(provider, model, tier).price


@pytest.mark.parametrize(
    ("provider", "model", "tier", "dollars_in", "dollars_out"),
    [
        ("openai", "gpt-5", "priority", "2.5", "20"),
        ("openai", "gpt-5", "fast", "2.5", "20"),
        ("openai", "gpt-5", "flex", "0.625", "5"),
        ("openai", "gpt-5", "auto", "2.5", "20"),  # the project may be set to it
        ("openai", "gpt-5-nano", "auto", "0.05", "0.4"),  # sold at no dearer tier
        ("openai", "gpt-4o", "flex", "2.5", "10"),  # not sold at flex: the plain price
        ("anthropic", "claude-opus-5", "fast", "10", "50"),
        ("anthropic", "claude-opus-5", "@us", "5.5", "27.5"),  # bound to a place: a tenth more
        ("anthropic", "claude-opus-5", "standard@us", "5.5", "27.5"),
        ("anthropic", "claude-opus-5", "fast@us", "11", "55"),
        ("gemini", "gemini-3-flash-preview", "priority", "0.9", "5.4"),  # 1.8 times the plain price
        ("groq", "llama-3.3-70b-versatile", "on_demand", "0.59", "0.79"),
    ],
)
def test_a_known_tier(provider: str, model: str, tier: str, dollars_in: str, dollars_out: str) -> None:
    found = price(provider, model, tier)
    assert found.known
    assert found.rates.input == Fraction(dollars_in) * DOLLAR
    assert found.rates.output == Fraction(dollars_out) * DOLLAR


@pytest.mark.parametrize(
    ("provider", "model", "tier", "times"),
    [
        ("openai", "o1", "priority", Fraction(5, 2)),
        ("openai", "gpt-6-astra", "ultrafast", 6),
        ("openai", "gpt-4o", "a-tier-to-come", 6),
        ("azure", "gpt-4o", "priority", Fraction(5, 2)),
        ("xai", "grok-4.5", "priority", Fraction(5, 2)),
        ("anthropic", "no-such-model", "fast", Fraction(5, 2)),
    ],
)
def test_a_tier_that_is_not_listed_is_not_known_and_costs_the_most_that_it_may(
    provider: str, model: str, tier: str, times: Fraction
) -> None:
    plain, dear = price(provider, model), price(provider, model, tier)
    assert not dear.known
    assert dear.version.endswith("dearest tier")
    assert dear.rates.input == plain.rates.input * times
    assert dear.rates.output == plain.rates.output * times
    assert [start for start, _ in dear.tiers] == [start for start, _ in plain.tiers]
    assert dear.per_web_search == plain.per_web_search > 0


@pytest.mark.parametrize("tier", ["", "default", "standard", "on_demand", "scale", "provisioned"])
def test_a_tier_that_promises_no_more_costs_the_plain_price(tier: str) -> None:
    for provider, model in [("openai", "gpt-5"), ("azure", "gpt-4o"), ("gemini", "gemini-2.5-pro"), ("local", "x")]:
        assert price(provider, model, tier) == price(provider, model)


def test_what_is_assumed_covers_every_tier_in_the_list() -> None:
    compared = 0
    for provider in providers:
        for model in provider.models:
            plain = _price(model, NOW)
            for word, tiered in (_listed(plain, model, NOW) if plain else {}).items():
                known = _DOCUMENTED.get((provider.id, word)) or _PREMIUMS.get(word, _DEAREST_PREMIUM)
                assert tiered.premium <= known, (provider.id, model.id, word)
                compared += 1
    assert compared > 70


def test_an_override_pays_a_dear_tiers_premium_and_never_its_discount() -> None:
    mine = Override("*", Price(Rates(100, 200, cached_input=10), "config"))
    assert price("openai", "gpt-5", "priority", mine).rates == Rates(200, 400, cached_input=20)
    assert price("openai", "gpt-5", "flex", mine).rates == Rates(100, 200, cached_input=10)
    assert price("sandbox", "x", "priority", mine).rates == Rates(100, 200, cached_input=10)


def test_another_place_costs_what_the_dearest_known_one_does_and_is_not_known() -> None:
    found = price("anthropic", "claude-opus-5", "@" + "x" * 200)
    assert (found.rates.input, found.known) == (Fraction("5.5") * DOLLAR, False)
    assert found.version.endswith("dearest place")


def test_a_place_raises_every_rate_of_tokens() -> None:
    plain, there = price("anthropic", "claude-opus-5").rates, price("anthropic", "claude-opus-5", "@us").rates
    for kind in ("cached_input", "cache_write", "cache_write_1h"):
        assert getattr(there, kind) == getattr(plain, kind) * Fraction(11, 10), kind
    mine = Override("*", Price(Rates(100, 200, cached_input=10), "config"))
    assert price("anthropic", "claude-opus-5", "@us", mine).rates == Rates(110, 220, cached_input=11)


def test_every_search_has_a_fee() -> None:
    assert price("openai", "gpt-5").per_web_search == 10 * PER_THOUSAND
    assert price("openai", "gpt-5").per_file_search == PER_THOUSAND * 5 // 2
    assert price("openai", "gpt-4.1-nano").per_web_search == 10 * PER_THOUSAND  # not listed: OpenAI's dearest
    assert price("openai", "gpt-4o-mini-search-preview").per_web_search == 25 * PER_THOUSAND
    assert price("xai", "grok-4.5").per_web_search == 5 * PER_THOUSAND
    assert price("openrouter", "deepseek/deepseek-chat").per_web_search == 10 * PER_THOUSAND
    assert price("groq", "openai/gpt-oss-120b").per_web_search == DEAREST_WEB
    assert price("groq", "openai/gpt-oss-120b").per_file_search == DEAREST_FILE


def test_an_override_keeps_the_fees_of_a_listed_model_and_gives_an_unlisted_one_none() -> None:
    mine = Override("*", Price(Rates(1, 1), "config"))
    assert price("openai", "gpt-5", None, mine).per_web_search == 10 * PER_THOUSAND
    assert price("local", "llama", None, mine).per_web_search == 0


def test_no_fee_in_the_list_is_higher_than_the_dearest() -> None:
    known = [found for p in providers for m in p.models if (found := _price(m, NOW)) is not None]
    assert max(found.per_web_search for found in known) == DEAREST_WEB
    assert max(found.per_file_search for found in known) == DEAREST_FILE


def test_quotes_of_tiers_are_kept_apart_and_absurd_names_are_not_kept() -> None:
    book = Catalog(ORIGINS, clock=NOW.timestamp)
    assert book.quote("openai", "gpt-5", "flex") is book.quote("openai", "gpt-5", "flex")
    assert book.quote("openai", "gpt-5", "flex") != book.quote("openai", "gpt-5")
    kept = len(book._quotes)
    assert not book.quote("openai", "gpt-5", "x" * 10_000).price.known
    assert len(book._quotes) == kept
