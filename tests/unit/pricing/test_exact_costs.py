"""What calls cost to the nano-dollar: worked out by hand, by us, and by the price list's own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

import genai_prices
import pytest

from llmguard.core.money import NANO
from llmguard.core.usage import Usage
from llmguard.pricing import Catalog, Origin

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BOOK = Catalog(
    {name: Origin(name) for name in ("openai", "anthropic", "gemini")} | {"perplexity": Origin("openai")},
    clock=NOW.timestamp,
)
LISTED = {"gemini": "google"}


@dataclass(frozen=True)
class Case:
    """``dollars`` is worked out by hand from ``sum``: (count, dollars per million or per thousand, divisor)."""

    provider: str
    model: str
    usage: Usage
    sum: list[tuple[int, str, int]]
    tier: str | None = None
    context: dict[str, str] = field(default_factory=dict)

    @property
    def dollars(self) -> Decimal:
        return sum((count * Decimal(price) / per for count, price, per in self.sum), Decimal(0))


M, K = 10**6, 10**3
CASES = [
    Case("openai", "gpt-4o", Usage(1_000, 500), [(1_000, "2.5", M), (500, "10", M)]),
    Case("openai", "gpt-4o", Usage(1_000, 500, 900), [(100, "2.5", M), (900, "1.25", M), (500, "10", M)]),
    Case(
        "openai",
        "gpt-4o",
        Usage(1_000, 500, 900),
        [(100, "4.25", M), (900, "2.125", M), (500, "17", M)],
        "priority",
        {"service_tier": "priority"},
    ),
    Case(
        "openai",
        "gpt-5",
        Usage(12_345, 678, 10_000),
        [(2_345, "0.625", M), (10_000, "0.0625", M), (678, "5", M)],
        "flex",
        {"service_tier": "flex"},
    ),
    Case("openai", "gpt-5", Usage(1_001, 3), [(1_001, "1.25", M), (3, "10", M)], "default"),
    Case("openai", "gpt-5.5", Usage(7, 11), [(7, "12.5", M), (11, "75", M)], "fast", {"service_tier": "fast"}),
    Case(
        "openai",
        "gpt-6-sol",
        Usage(300_000, 1_000, 200_000, 50_000),
        [(50_000, "8", M), (200_000, "0.8", M), (50_000, "10", M), (1_000, "30", M)],
        "priority",
        {"service_tier": "priority"},
    ),
    Case(
        "openai",
        "gpt-4.1",
        Usage(9_000, 400, web_searches=3, file_searches=2),
        [(9_000, "2", M), (400, "8", M), (3, "10", K), (2, "2.5", K)],
    ),
    Case(
        "openai",
        "gpt-audio",
        Usage(700, 300, input_audio_tokens=600, output_audio_tokens=250),
        [(100, "2.5", M), (600, "32", M), (50, "10", M), (250, "64", M)],
    ),
    Case(
        "anthropic",
        "claude-sonnet-4-5",
        Usage(10_000, 200, 7_000, 2_000, cache_write_1h_tokens=500),
        [(1_000, "3", M), (7_000, "0.3", M), (1_500, "3.75", M), (500, "6", M), (200, "15", M)],
    ),
    Case("anthropic", "claude-sonnet-4-5", Usage(200_001, 10), [(200_001, "6", M), (10, "22.5", M)]),
    Case(
        "anthropic",
        "claude-opus-5-5",
        Usage(5_000, 1_000, 4_000, 500),
        [(500, "8", M), (4_000, "0.4", M), (500, "10", M), (1_000, "40", M)],
        "fast",
        {"speed": "fast"},
    ),
    Case(
        "anthropic",
        "claude-haiku-4-5",
        Usage(20_000, 900, web_searches=2),
        [(20_000, "1", M), (900, "5", M), (2, "10", K)],
    ),
    Case(
        "gemini",
        "gemini-2.5-flash",
        Usage(5_000, 600, input_audio_tokens=4_000),
        [(1_000, "0.3", M), (4_000, "1", M), (600, "2.5", M)],
    ),
    Case(
        "gemini",
        "gemini-2.5-pro",
        Usage(200_001, 100, web_searches=1),
        [(200_001, "2.5", M), (100, "15", M), (1, "35", K)],
    ),
    Case(
        "gemini",
        "gemini-3-flash-preview",
        Usage(417, 71, web_searches=2),
        [(417, "0.5", M), (71, "3", M), (2, "14", K)],
    ),
    Case(
        "gemini",
        "gemini-embedding-2",
        Usage(1_000, 0, input_image_tokens=258, input_video_tokens=500, input_audio_tokens=32),
        [(210, "0.2", M), (258, "0.45", M), (500, "12", M), (32, "6.5", M)],
    ),
    Case(
        "perplexity",
        "sonar-deep-research",
        Usage(33, 7_000, web_searches=18),
        [(33, "2", M), (7_000, "8", M), (18, "5", K)],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.provider}/{case.model}/{case.tier}")
def test_the_cost_is_exact(case: Case) -> None:
    ours = BOOK.quote(case.provider, case.model, case.tier).price.cost(case.usage)
    by_hand = int((case.dollars * NANO).to_integral_value(ROUND_CEILING))
    assert ours.total == by_hand == _theirs(case)


def _theirs(case: Case) -> int:
    usage = case.usage
    reported = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens or 0,
        cache_write_tokens=usage.cache_write_tokens or 0,
        cache_write_1h_tokens=usage.cache_write_1h_tokens or 0,
        input_audio_tokens=usage.input_audio_tokens or 0,
        output_audio_tokens=usage.output_audio_tokens or 0,
        cache_audio_read_tokens=usage.cached_audio_tokens or 0,
        input_image_tokens=usage.input_image_tokens or 0,
        input_video_tokens=usage.input_video_tokens or 0,
        output_reasoning_tokens=0,
        output_citation_tokens=0,
        web_searches=usage.web_searches or 0,
        storage_searches=usage.file_searches or 0,
    )
    calculation = genai_prices.calc_price(
        reported,
        case.model,
        provider_id=LISTED.get(case.provider, case.provider),
        genai_request_timestamp=NOW,
        price_context=case.context or None,
    )
    return int((calculation.total_price * NANO).to_integral_value(ROUND_CEILING))
