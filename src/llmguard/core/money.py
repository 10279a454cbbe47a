"""Money as integers: amounts in nano-USD (10^-9 $), prices in femto-USD (10^-15 $) per token.

A price such as $0.0125 per million tokens is 12.5 nano-USD a token, so prices need a finer unit than amounts. Rounding
happens once per ledger entry, up.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from msgspec import Struct

from llmguard.core.usage import Usage

NANO = 10**9
FEMTO_PER_NANO = 10**6

PLAIN_TIERS = frozenset(
    ("", "default", "standard", "on_demand", "flex", "batch", "scale", "provisioned", "unspecified")
)
"""Service tiers of providers that never cost more than the plain price of a model."""
AT_PLACE = "@"
"""Between a tier and the place where the caller wants to be served: `fast@us`, `@us`."""


def nano_from_usd(amount: Decimal | str | int) -> int:
    """Dollars to nano-USD, exactly. Raises ValueError when the amount is finer than a nano-dollar."""
    nano = Decimal(amount) * NANO
    if nano != nano.to_integral_value():
        raise ValueError(f"{amount} is finer than a nano-dollar (0.000000001)")
    return int(nano)


def usd_string(nano: int) -> str:
    """Nano-USD as a plain decimal string without trailing zeros: 1_500_000_000 -> "1.5"."""
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), NANO)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Rates:
    """Femto-USD per token of each kind; ``None`` means "priced as the kind it is part of"."""

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    cached_audio: int | None = None
    output_audio: int | None = None
    input_image: int | None = None
    input_video: int | None = None

    @property
    def dearest_media(self) -> int:
        """The highest rate of input that is not text, 0 where such input has none of its own."""
        return max(self.input_audio or 0, self.input_image or 0, self.input_video or 0)

    @property
    def dearest_input(self) -> int:
        """The highest rate that an input token of text can be billed at."""
        return max(self.input, self.cache_write or 0, self.cache_write_1h or 0)


class Cost(Struct, eq=False):
    """Nano-USD of one entry. ``total`` is rounded up once; the parts sum to it."""

    total: int
    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs. ``tiers`` are (threshold, rates): the last one whose threshold the input exceeds applies.

    ``per_request`` is femto-USD charged once per call, ``per_web_search`` and ``per_file_search`` once per search of
    the provider's tools. ``version`` says which catalog and date the numbers came from.
    """

    rates: Rates
    version: str
    tiers: tuple[tuple[int, Rates], ...] = ()
    per_request: int = 0
    known: bool = True
    per_web_search: int = 0
    per_file_search: int = 0

    def at(self, input_tokens: int) -> Rates:
        """The rates that apply to a call with this much input."""
        chosen = self.rates
        for threshold, rates in self.tiers:
            if input_tokens > threshold:
                chosen = rates
        return chosen

    def searches(self, web: int, file: int) -> int:
        """Femto-USD for so many searches."""
        return web * self.per_web_search + file * self.per_file_search

    def cost(self, usage: Usage) -> Cost:
        """Exact cost of one call, rounded up to the nano-dollar once."""
        rates = self.at(usage.input_tokens) if self.tiers else self.rates
        if (
            usage.cached_input_tokens
            or usage.cache_write_tokens
            or usage.input_audio_tokens
            or rates.input_image is not None
            or rates.input_video is not None
        ):
            femto_in = _input_femto(rates, usage)
        else:
            femto_in = usage.input_tokens * rates.input
        if usage.output_audio_tokens:
            femto_out = _output_femto(rates, usage)
        else:
            femto_out = usage.output_tokens * rates.output
        femto_in += self.per_request
        if usage.web_searches or usage.file_searches:
            femto_in += self.searches(usage.web_searches or 0, usage.file_searches or 0)
        total = -(-(femto_in + femto_out) // FEMTO_PER_NANO)
        input_part = femto_in // FEMTO_PER_NANO
        return Cost(total, input_part, total - input_part)


def _input_femto(rates: Rates, usage: Usage) -> int:
    cached = usage.cached_input_tokens or 0
    written = usage.cache_write_tokens or 0
    audio = usage.input_audio_tokens or 0
    cached_audio = min(usage.cached_audio_tokens or 0, cached, audio) if audio else 0
    cached_text = cached - cached_audio
    # Where pictures cost what text costs, they stay in the text: then some of them may be cached.
    image = 0 if rates.input_image is None else usage.input_image_tokens or 0
    video = 0 if rates.input_video is None else usage.input_video_tokens or 0
    femto = max(usage.input_tokens - cached_text - written - audio - image - video, 0) * rates.input
    if cached_text:
        femto += cached_text * _first(rates.cached_input, rates.input)
    if written:
        written_1h = min(usage.cache_write_1h_tokens or 0, written)
        write_rate = _first(rates.cache_write, rates.input)
        femto += (written - written_1h) * write_rate + written_1h * _first(rates.cache_write_1h, write_rate)
    if audio:
        femto += (audio - cached_audio) * _first(rates.input_audio, rates.input)
        femto += cached_audio * _first(rates.cached_audio, rates.cached_input, rates.input_audio, rates.input)
    if image or video:
        femto += image * _first(rates.input_image, rates.input) + video * _first(rates.input_video, rates.input)
    return femto


def _output_femto(rates: Rates, usage: Usage) -> int:
    audio = min(usage.output_audio_tokens or 0, usage.output_tokens)
    return (usage.output_tokens - audio) * rates.output + audio * _first(rates.output_audio, rates.output)


def _first(*rates: int | None) -> int:
    """A kind of token without a rate of its own is priced as the kind it is part of."""
    return next(rate for rate in rates if rate is not None)
