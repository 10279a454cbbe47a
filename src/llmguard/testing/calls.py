"""Calls for the tests of ledgers: plausible entries and the records around them."""

from __future__ import annotations

import random
from typing import Any, Final

from llmguard.core.records import BucketCharge, Entry, HoldRecord, PartialRecord, SentRecord, SettleRecord

T0: Final = 1_790_000_100_000
"""A moment on a quarter hour: 2026-09-21T14:15:00Z."""

_WORDS: Final = ("hold", "estimated", "counted", "provider")


def new_id(rng: random.Random) -> str:
    """A UUIDv7-shaped id from a seeded source."""
    text = f"{T0 << 80 | 7 << 76 | rng.getrandbits(76) & ~(0xC << 60) | 8 << 60:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def entry(rng: random.Random, **changes: Any) -> Entry:
    """A settled call of team `search`, costing 12,345,678 nano-USD unless told otherwise."""
    event_id = changes.pop("event_id", None) or new_id(rng)
    rev = changes.get("rev", 3)
    plain = Entry(
        event_id=event_id,
        attempt_id=changes.pop("attempt_id", None) or new_id(rng),
        kind="POST",
        rev=rev,
        created_at=T0,
        org="default",
        team="search",
        env="prod",
        feature="chat",
        end_user=None,
        principal="k1",
        key_id="k1",
        task_id=None,
        tree_id=None,
        trace_id=None,
        provider="openai",
        model_requested="gpt-4o",
        model_served="gpt-4o-2024-08-06",
        dialect="openai_chat",
        endpoint="/v1/chat/completions",
        stream=True,
        status=200,
        input_tokens=1_000,
        output_tokens=200,
        cached_input_tokens=128,
        cache_write_tokens=None,
        reasoning_tokens=None,
        cost_nano=12_345_678,
        cost_input_nano=2_345_678,
        cost_output_nano=10_000_000,
        saved_nano=0,
        estimate_nano=20_000_000,
        cap_nano=50_000_000,
        usage_source=_WORDS[rev],
        price_version="test-1",
        cache=None,
        finish_reason="stop",
        latency_ms=1_500,
        ttft_ms=200,
        bytes_in=4_000,
        bytes_out=9_000,
        interrupted=None,
        metadata=None,
        model="gpt-4o",
    )
    return plain._replace(**changes)


def charges(entry: Entry) -> tuple[BucketCharge, ...]:
    """What an entry charges to an hour's money, a day's tokens, and a count of live calls."""
    tokens = entry.input_tokens + entry.output_tokens
    return (
        BucketCharge(f"usd|hour|{T0}|team={entry.team}", "usd", entry.cost_nano, T0 + 3_600_000),
        BucketCharge(f"tokens|day|{T0}|team={entry.team}", "tokens", tokens, T0 + 86_400_000),
        BucketCharge("calls|live|0|", "calls", 0, 0),
    )


def settle(entry: Entry, **more: Any) -> SettleRecord:
    """The record that ends a call."""
    return SettleRecord(entry, charges(entry), **more)


def hold(entry: Entry) -> HoldRecord:
    """The record that begins the call which ends as ``entry``: 20,000,000 held, 2,000,000 of it for the input,
    50,000 nano-USD for each token of output."""
    held = entry._replace(
        rev=0,
        usage_source="hold",
        cost_nano=20_000_000,
        cost_input_nano=2_000_000,
        cost_output_nano=18_000_000,
        output_tokens=360,
        interrupted="process_lost",
        finish_reason=None,
    )
    return HoldRecord(held, charges(held), 2_000_000, 50_000_000_000)


def sent(entry: Entry) -> SentRecord:
    """The record before the first byte."""
    return SentRecord(entry.event_id, entry.attempt_id)


def partial(entry: Entry, tokens: int) -> PartialRecord:
    """The record of a stream under way, priced as :func:`hold` says."""
    return PartialRecord(entry.event_id, tokens, min(2_000_000 + tokens * 50_000, 50_000_000))
