"""Rows that correct."""

from __future__ import annotations

import random

from llmguard.ledger.adjust import adjust, amounts
from tests.support.ledger import entry


def test_the_correction_is_the_signed_difference() -> None:
    rng = random.Random(1)
    first = entry(rng, rev=1, cost_nano=500, input_tokens=10, output_tokens=90, cached_input_tokens=None)
    better = first._replace(rev=3, cost_nano=420, input_tokens=12, output_tokens=80, cached_input_tokens=4)
    row = adjust(better, amounts(first))
    assert row.kind == "ADJUST"
    assert row.rev == 3
    assert (row.cost_nano, row.input_tokens, row.output_tokens, row.cached_input_tokens) == (-80, 2, -10, 4)
    assert row.reasoning_tokens is None
    assert (row.latency_ms, row.created_at, row.status) == (better.latency_ms, better.created_at, better.status)


def test_a_count_that_is_no_longer_reported_is_taken_back() -> None:
    rng = random.Random(1)
    first = entry(rng, rev=1, reasoning_tokens=30)
    row = adjust(first._replace(rev=2, reasoning_tokens=None), amounts(first))
    assert row.reasoning_tokens == -30
