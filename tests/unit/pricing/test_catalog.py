"""Quotes: what is found under which name, what an unknown model costs, when a quote changes."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from llmguard.core.money import Price, Rates
from llmguard.core.usage import Usage
from llmguard.pricing import Catalog, Origin, Override

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DOLLAR = 10**9  # femto-USD per token of $1 per million tokens

ORIGINS = {
    "openai": Origin("openai", "https://api.openai.com/v1"),
    "anthropic": Origin("anthropic", "https://api.anthropic.com"),
    "gemini": Origin("gemini", "https://generativelanguage.googleapis.com"),
    "claude-eu": Origin("anthropic", "https://llm.example.com"),
    "fast": Origin("openai", "https://api.groq.com/openai/v1"),
    "deepseek": Origin("openai", "https://api.deepseek.com"),
    "openrouter": Origin("openai", "https://openrouter.ai/api/v1"),
    "sonar": Origin("openai", "https://api.perplexity.ai"),
    "local": Origin("openai", "http://127.0.0.1:9000/v1"),
    "sandbox": Origin("sandbox"),
}


def catalog(*overrides: Override, now: float = NOW) -> Catalog:
    return Catalog(ORIGINS, overrides, clock=lambda: now)


@pytest.mark.parametrize(
    ("provider", "model", "input_dollars", "output_dollars"),
    [
        ("openai", "gpt-4o", 2.5, 10),
        ("openai", "gpt-4o-2024-08-06", 2.5, 10),
        ("openai", "GPT-4o", 2.5, 10),
        ("openai", "ft:gpt-4o-2024-08-06:acme::abc", 3.75, 15),
        ("openai", "gpt-5.2-20251211", 1.75, 14),
        ("anthropic", "claude-sonnet-4-5-20250929", 3, 15),
        ("claude-eu", "claude-haiku-4-5", 1, 5),
        ("gemini", "gemini-2.5-pro", 1.25, 10),
        ("gemini", "models/gemini-2.5-pro", 1.25, 10),
        ("gemini", "publishers/google/models/gemini-2.5-pro", 1.25, 10),
        ("fast", "llama-3.3-70b-versatile", 0.59, 0.79),
        ("openrouter", "anthropic/claude-sonnet-4.5", 3, 15),
        ("local", "gpt-4o", 2.5, 10),
        ("sandbox", "anything", 1, 1),
    ],
)
def test_known_prices(provider: str, model: str, input_dollars: float, output_dollars: float) -> None:
    price = catalog().quote(provider, model).price
    assert price.known
    assert price.rates.input == round(input_dollars * DOLLAR)
    assert price.rates.output == round(output_dollars * DOLLAR)


def test_cache_rates_and_tiers() -> None:
    price = catalog().quote("anthropic", "claude-sonnet-4-5").price
    assert price.rates.cached_input == DOLLAR * 3 // 10
    assert price.rates.cache_write == DOLLAR * 15 // 4
    assert price.rates.cache_write_1h == 6 * DOLLAR
    assert price.at(200_000) == price.rates
    assert price.at(200_001).input == 6 * DOLLAR
    assert price.at(200_001).cache_write_1h == 12 * DOLLAR


def test_audio_rates_and_request_fees() -> None:
    audio = catalog().quote("openai", "gpt-audio").price.rates
    assert (audio.input_audio, audio.output_audio) == (32 * DOLLAR, 64 * DOLLAR)
    sonar = catalog().quote("sonar", "sonar").price
    assert sonar.cost(Usage(0, 0)).total == 12_000_000  # $12 per thousand requests


def test_an_image_models_reply_costs_what_its_images_cost() -> None:
    assert catalog().quote("gemini", "gemini-3-pro-image-preview").price.rates.output == 120 * DOLLAR


@pytest.mark.parametrize("provider", [name for name in ORIGINS if name != "sandbox"])
def test_an_unknown_model_costs_at_least_what_any_known_one_does(provider: str) -> None:
    book = catalog()
    unknown = book.quote(provider, "no-such-model").price
    assert not unknown.known
    assert unknown.version.endswith("dearest")
    cheapest_way = Usage(1_000_000, 1_000_000, cached_input_tokens=1_000_000)
    for model in ("gpt-4o", "o1-pro", "claude-opus-4-1", "gemini-2.5-pro", "deepseek-reasoner", "sonar-pro"):
        known = book.quote(provider, model).price
        assert unknown.cost(cheapest_way).total >= known.cost(Usage(1_000_000, 1_000_000)).total


def test_the_dearest_prices() -> None:
    book = catalog()
    assert book.quote("openai", "x").price.rates == Rates(150 * DOLLAR, 600 * DOLLAR)
    anthropic = Rates(15 * DOLLAR, 75 * DOLLAR, cache_write=DOLLAR * 75 // 4, cache_write_1h=30 * DOLLAR)
    assert book.quote("anthropic", "x").price.rates == anthropic
    assert book.quote("claude-eu", "x").price.rates == anthropic
    assert book.quote("local", "x").price == book.quote("openai", "x").price


def test_nothing_is_free_unless_its_name_or_the_configuration_says_so() -> None:
    assert not catalog().quote("openai", "omni-moderation-latest").price.known
    free = next(m for m in _openrouter_free_models())
    assert catalog().quote("openrouter", free).price.rates == Rates(0, 0)
    mine = Override("gemini/gemma-*", Price(Rates(0, 0), "config"))
    assert catalog(mine).quote("gemini", "gemma-3").price.rates == Rates(0, 0)
    assert not catalog().quote("gemini", "gemma-3").price.known


def _openrouter_free_models() -> list[str]:
    from genai_prices.data import providers

    return [m.id for p in providers if p.id == "openrouter" for m in p.models if m.id.endswith(":free")]


@pytest.mark.parametrize(
    ("provider", "model", "max_output", "context"),
    [
        ("openai", "gpt-4o", 16_384, 128_000),
        ("openai", "gpt-4o-2024-05-13", 4_096, 128_000),
        ("openai", "gpt-4.1-mini", 32_768, 1_000_000),
        ("openai", "o1", 100_000, 200_000),
        ("openai", "gpt-6.2-sol", 128_000, 128_000),
        ("openai", "text-embedding-3-large", 0, 8_192),
        ("anthropic", "claude-opus-4-1-20250805", 32_000, 200_000),
        ("anthropic", "claude-opus-5", 128_000, 1_000_000),
        ("openrouter", "anthropic/claude-3.5-sonnet", 8_192, 128_000),
        ("gemini", "models/gemini-2.5-pro", 65_536, 1_048_576),
        ("gemini", "gemini-4-argon", 1_048_576, 1_048_576),
        ("local", "llama", 128_000, 128_000),
        ("local", "bge-m3", 0, 128_000),
        ("sandbox", "chat", 128_000, 128_000),
    ],
)
def test_limits(provider: str, model: str, max_output: int, context: int) -> None:
    quote = catalog().quote(provider, model)
    assert (quote.max_output, quote.context_window) == (max_output, context)


def test_overrides_replace_price_and_limits_apart() -> None:
    price = Price(Rates(DOLLAR, 4 * DOLLAR, cached_input=DOLLAR // 10), "config")
    book = catalog(
        Override("local/*", price),
        Override("local/llama*", max_output=8_192, context_window=32_768),
        Override("OpenAI/gpt-4o", max_output=100),
    )
    llama = book.quote("local", "Llama-3")
    assert (llama.price, llama.max_output, llama.context_window) == (price, 8_192, 32_768)
    assert book.quote("local", "other").max_output == 128_000
    gpt = book.quote("openai", "gpt-4o")
    assert (gpt.price.rates.input, gpt.max_output, gpt.context_window) == (DOLLAR * 5 // 2, 100, 128_000)


def test_the_most_specific_pattern_wins_whatever_the_order() -> None:
    wide, narrow = Price(Rates(1, 1), "wide"), Price(Rates(2, 2), "narrow")
    for overrides in [
        (Override("*", wide), Override("local/ll*", narrow)),
        (Override("local/ll*", narrow), Override("*", wide)),
    ]:
        assert catalog(*overrides).quote("local", "llama").price is narrow
        assert catalog(*overrides).quote("openai", "gpt-4o").price.version == "wide"


def test_prices_change_on_their_day() -> None:
    """A new price is noticed at midnight UTC, without being told."""
    day = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
    now = [day - 1]
    book = Catalog(ORIGINS, clock=lambda: now[0])
    assert book.quote("gemini", "gemini-3-flash-preview").price.version == _version()
    now[0] = day
    assert book.quote("gemini", "gemini-3-flash-preview").price.version == f"{_version()} 2026-01-05"


def test_prices_change_at_their_hour() -> None:
    """deepseek-chat costs half between 16:30 and 00:30 UTC in the catalog."""
    evening = datetime(2025, 3, 1, 16, 30, tzinfo=UTC).timestamp()
    now = [evening - 1]
    book = Catalog(ORIGINS, clock=lambda: now[0])
    by_day = book.quote("deepseek", "deepseek-chat").price.rates
    now[0] = evening
    by_night = book.quote("deepseek", "deepseek-chat").price.rates
    assert (by_day.input, by_night.input) == (DOLLAR * 27 // 100, DOLLAR * 135 // 1000)


def _version() -> str:
    import genai_prices

    return f"genai-prices {genai_prices.__version__}"


def test_quotes_are_remembered_but_not_without_bound() -> None:
    book = catalog()
    first = book.quote("sandbox", "m")
    assert book.quote("sandbox", "m") is first
    for n in range(5_000):
        book.quote("sandbox", f"m{n}")
    assert len(book._quotes) <= 4_096
    book.quote("sandbox", "x" * 100_000)
    assert all(len(model) <= 256 for _, model in book._quotes)


def test_a_provider_that_is_not_configured_is_an_error() -> None:
    with pytest.raises(KeyError):
        catalog().quote("nobody", "gpt-4o")


def test_the_price_list_is_read_at_the_first_question_only() -> None:
    import subprocess

    code = (
        "import sys, llmguard.pricing as p; "
        "c = p.Catalog({'sandbox': p.Origin('sandbox'), 'openai': p.Origin('openai')}); c.quote('sandbox', 'm'); "
        "assert 'genai_prices' not in sys.modules; c.warm(); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
