"""What a call may cost: the estimate `e` that is held for it and the cap `c` it cannot pass."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from llmguard.core.buckets import Bucket, RateBucket, Room
from llmguard.core.call import Call
from llmguard.core.money import FEMTO_PER_NANO
from llmguard.core.moves import Hold, Rate
from llmguard.core.ports import Quote

EXPECTED_OUTPUT = 1_024
"""Tokens expected of a call of which nothing is known yet."""
STEP = 1_024
"""Tokens by which the hold of a running stream grows."""
_ONE_CALL = 1, 1, 0


class Estimate(Struct, eq=False):
    """The worst and the likely cost of one call.

    ``input_tokens`` is an upper bound or, with ``exact``, counted. ``fixed_femto`` is what input and fees cost at the
    dearest rate that may apply; ``output_femto`` is the price of one output token of every choice together.
    ``expected`` and ``max_output`` are the likely and the largest output of one choice; ``hidden_tokens`` is unseen
    input that only the cap counts, as it counts ``hidden_femto``: that input and the fees of further searches.
    """

    input_tokens: int
    exact: bool
    expected: int
    max_output: int
    choices: int
    fixed_femto: int
    hidden_femto: int
    output_femto: int
    hidden_tokens: int
    nano: int = 0
    """The estimate `e` in nano-USD, rounded up; this and the rest follow from what stands before."""
    fixed_nano: int = 0
    output_nano: int = 0

    def __post_init__(self) -> None:
        self.nano = -(-(self.fixed_femto + self.expected * self.output_femto) // FEMTO_PER_NANO)
        self.fixed_nano = -(-(self.fixed_femto + self.hidden_femto) // FEMTO_PER_NANO)
        self.output_nano = -(-self.output_femto // FEMTO_PER_NANO)

    @property
    def cap_nano(self) -> int:
        """The cap `c` in nano-USD, rounded up."""
        femto = self.fixed_femto + self.hidden_femto + self.max_output * self.output_femto
        return -(-femto // FEMTO_PER_NANO)

    @property
    def tokens(self) -> int:
        """The estimate in tokens, input and output together."""
        return self.input_tokens + self.expected * self.choices

    def grown(self, expected: int) -> Estimate:
        """The same call when so much output per choice is expected, and one step more at most."""
        return replace(self, expected=expected, max_output=expected + STEP)

    def amounts(self, unit: str) -> tuple[int, int, int]:
        """What a bucket of this unit holds: the estimate, the cap's fixed part, and its part per token of output."""
        if unit == "usd":
            return self.nano, self.fixed_nano, self.output_nano
        if unit == "tokens":
            return self.tokens, self.input_tokens + self.hidden_tokens, self.choices
        return _ONE_CALL

    def hold(self, bucket: Bucket) -> Hold:
        """What one bucket holds."""
        amounts = self.amounts(bucket.unit)
        if bucket.unit == "calls":
            return Hold(bucket.name, bucket.limit, bucket.ceiling, *amounts, 0, 0, True)
        return Hold(bucket.name, bucket.limit, bucket.ceiling, *amounts, bucket.start, bucket.end, alerts=bucket.alerts)

    def rate(self, bucket: RateBucket) -> Rate:
        """What one rate limit counts for this call."""
        settles = bucket.unit == "tokens"
        cost = self.tokens if settles else 1
        return Rate(bucket.name, bucket.limit, bucket.period_ms, cost, settles)

    def fits_often(self, room: Sequence[Room]) -> bool:
        """Whether buckets have so much ``room`` that an upper bound is good enough to admit this call."""
        for unit, most, most_cap in room:
            expected, fixed, per_output = self.amounts(unit)
            if expected > most or fixed + per_output * self.max_output > most_cap:
                return False
        return True


def estimate(call: Call, quote: Quote, prompt_tokens: int | None) -> Estimate:
    """Estimate a call; ``prompt_tokens`` is the exact count of its text, None for the upper bound from its bytes.

    A stream whose output is seen can be cut, so its cap ends one step after what is expected. Of the searches that
    tools at the provider may make, one of each kind is expected and the others count in the cap only.
    """
    price = quote.price
    text = call.prompt_bytes if prompt_tokens is None else prompt_tokens
    tokens = text + call.extra_input_tokens
    hidden = quote.context_window if call.server_context else 0
    rates = price.at(tokens + hidden) if price.tiers else price.rates
    audio_in, audio_out = (rates.dearest_media, rates.output_audio or 0) if call.audio else (0, 0)
    input_rate = max(rates.dearest_input if call.writes_cache else rates.input, audio_in)
    largest = quote.max_output if call.max_tokens is None else call.max_tokens
    expected = min(largest, EXPECTED_OUTPUT) if call.generates else 0
    if not call.generates:
        largest = 0
    elif call.stream and not call.hidden_output:
        largest = min(largest, expected + STEP)
    fees = worst_fees = 0
    if call.web_searches or call.file_searches:
        fees = price.searches(min(call.web_searches, 1), min(call.file_searches, 1))
        worst_fees = price.searches(call.web_searches, call.file_searches) - fees
    return Estimate(
        tokens,
        prompt_tokens is not None,
        expected,
        largest,
        call.choices,
        tokens * input_rate + price.per_request + fees,
        hidden * input_rate + worst_fees,
        max(rates.output, audio_out) * call.choices,
        hidden,
    )
