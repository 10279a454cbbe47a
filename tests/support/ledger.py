"""Calls for ledger tests: plausible entries and the records around them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmguard.core.records import (
    BucketCharge,
    Entry,
    HoldRecord,
    PartialRecord,
    SentRecord,
    SettleRecord,
)
from llmguard.ledger import DeadLetter, Ledger, TripRow
from llmguard.ledger.models import metadata
from tests.support import postgres

PEPPER = b"pepper-of-the-tests-0123456789abcdef"
T0 = 1_790_000_100_000
"""A moment on a quarter hour: 2026-09-21T14:15:00Z."""

_words = ("hold", "estimated", "counted", "provider")


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
        usage_source=_words[rev],
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


def trip(**changes: Any) -> TripRow:
    """A task that came to four paid attempts."""
    known: dict[str, Any] = {
        "id": "01a0c451-f2a0-7aaa-9e2f-eb89414c343c",
        "at": T0,
        "scope": "task",
        "name": "task:t1",
        "rule": "paid_attempts",
        "allowed": 4,
        "seen": 4,
        "unit": "attempts",
        "org": "default",
        "team": "growth",
        "env": "prod",
        "feature": "summaries",
        "task": "app.summarise",
        "task_id": "t1",
        "tree_id": "t1",
        "cost_nano": 1_200_000_000,
    }
    return TripRow(**(known | changes))


def letter(**changes: Any) -> DeadLetter:
    """The message of the task of :func:`trip`."""
    known: dict[str, Any] = {
        "id": "01a0c451-f2a0-7bbb-9e2f-eb89414c343c",
        "at": T0,
        "task": "app.summarise",
        "task_id": "t1",
        "org": "default",
        "team": "growth",
        "env": "prod",
        "feature": "summaries",
        "rule": "paid_attempts",
        "reason": "4 paid attempts",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "body": b'[[1], {"a": "\xc3\xbc\x00"}]',
        "options": '{"queue": "slow"}',
        "tree_id": "t1",
    }
    return DeadLetter(**(known | changes))


def seed() -> int:
    """A seed for a randomised test: fresh, or `SEED` from the environment; printed for whoever must repeat it."""
    value = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={value}")
    return value


@contextmanager
def sqlite_ledger(directory: Path) -> Iterator[Ledger]:
    """A migrated ledger in a file below ``directory``."""
    with opened(f"sqlite:///{directory / 'ledger.db'}") as ledger:
        yield ledger


@contextmanager
def postgres_ledger() -> Iterator[Ledger]:
    """A migrated ledger on a server of its own."""
    with postgres.running() as url, opened(url) as ledger:
        yield ledger


def empty(ledger: Ledger) -> None:
    """Delete every row."""
    with ledger.engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())


@contextmanager
def opened(url: str) -> Iterator[Ledger]:
    """A migrated ledger at ``url``."""
    ledger = Ledger(url, pepper=PEPPER)
    ledger.migrate()
    try:
        yield ledger
    finally:
        ledger.close()
