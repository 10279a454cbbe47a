"""What a call costs whose process died."""

from __future__ import annotations

import random

from llmguard.ledger.interrupted import settle_interrupted
from tests.support.ledger import entry, hold, partial, sent

CALL = entry(random.Random(1))


def test_without_a_partial_the_hold_is_charged() -> None:
    record = settle_interrupted(hold(CALL), sent(CALL), None)
    assert record.entry.cost_nano == 20_000_000
    assert (record.entry.usage_source, record.entry.rev) == ("hold", 0)
    assert record.entry.interrupted == "process_lost"
    assert [bucket.amount for bucket in record.buckets] == [20_000_000, 1_360, 0]


def test_with_a_partial_the_input_and_the_output_seen_are_charged() -> None:
    record = settle_interrupted(hold(CALL), sent(CALL), partial(CALL, 100))
    assert record.entry.cost_nano == 2_000_000 + 100 * 50_000
    assert (record.entry.cost_input_nano, record.entry.cost_output_nano) == (2_000_000, 5_000_000)
    assert (record.entry.usage_source, record.entry.rev) == ("estimated", 1)
    assert (record.entry.input_tokens, record.entry.output_tokens) == (1_000, 100)
    assert [bucket.amount for bucket in record.buckets] == [7_000_000, 1_100, 0]


def test_it_is_rounded_up_to_a_nano_dollar() -> None:
    held = hold(CALL)._replace(output_femto=1_500_001)
    assert settle_interrupted(held, sent(CALL), partial(CALL, 3)).entry.cost_nano == 2_000_005


def test_it_never_costs_more_than_was_held() -> None:
    record = settle_interrupted(hold(CALL), sent(CALL), partial(CALL, 1_000_000))
    assert record.entry.cost_nano == CALL.cap_nano
    assert record.entry.cost_input_nano + record.entry.cost_output_nano == CALL.cap_nano


def test_a_hold_that_was_raised_since_counts_with_what_the_partial_says() -> None:
    late = partial(CALL, 1_500)._replace(cost_nano=77_000_000)
    assert settle_interrupted(hold(CALL), sent(CALL), late).entry.cost_nano == 77_000_000


def test_the_row_is_that_of_the_attempt_that_was_sent() -> None:
    other = sent(CALL)._replace(attempt_id=CALL.event_id)
    assert settle_interrupted(hold(CALL), other, None).entry.attempt_id == CALL.event_id
