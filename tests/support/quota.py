"""Ordinary moves against a server, and a warm store to make them on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from llmguard.core.moves import Charge, Hold, Reserve, Settle, Truth
from llmguard.errors import StoreUnavailable
from llmguard.stores.redis import RedisStore
from tests.support.valkey import ValkeyServer

HOUR = 3_600_000
EMPTY = Truth((), ())
PREFIX = "llmguard:1:{default}:"


def reserve(rid: str, estimate: int = 100) -> Reserve:
    return Reserve(rid, "p1", 60_000, (Hold("usd|total", 1_000, 1_000, estimate, estimate),))


def settle(rid: str, amount: int = 70) -> Settle:
    return Settle(rid, 3, int(time.time() * 1_000), (Charge("usd|total", amount),))


def warm(server: ValkeyServer, namespace: str = "default") -> RedisStore:
    store = RedisStore(server.url, namespace, grace_ms=0)
    assert store.load(lambda: EMPTY) is True
    return store


def seconds(call: Callable[[], object]) -> float:
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        call()
    return time.monotonic() - start
