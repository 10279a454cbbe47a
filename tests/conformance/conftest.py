"""A ledger on each database, empty at the start of each test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmguard.ledger import Ledger
from tests.support.ledger import empty, postgres_ledger, seed, sqlite_ledger


@pytest.fixture(scope="module")
def on_postgresql() -> Iterator[Ledger]:
    with postgres_ledger() as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        with sqlite_ledger(tmp_path) as opened:
            yield opened
        return
    shared: Ledger = request.getfixturevalue("on_postgresql")
    empty(shared)
    yield shared


@pytest.fixture
def rng() -> random.Random:
    return random.Random(seed())
