"""Ledgers for tests, and what stands in them beside calls (:mod:`llmguard.testing.calls`)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmguard.ledger import DeadLetter, Ledger, TripRow
from llmguard.ledger.models import metadata
from llmguard.testing.calls import T0, charges, entry, hold, new_id, partial, sent, settle
from tests.support import postgres

__all__ = ["T0", "charges", "entry", "hold", "new_id", "partial", "sent", "settle"]

PEPPER = b"pepper-of-the-tests-0123456789abcdef"


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
