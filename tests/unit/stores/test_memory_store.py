"""The store of a single process, and the choice of a store."""

from __future__ import annotations

import pytest

from llmguard.core.moves import Admitted, Again, Charge, Counted, Settle, Truth
from llmguard.errors import ConfigError
from llmguard.stores import open_blocking_store, open_store
from llmguard.stores.memory import MemoryStore
from llmguard.stores.redis import AsyncRedisStore, RedisStore
from tests.support.book import NOW, hold, reserve, settle

TRUTH = Truth((Charge("usd|day", 990),), (Counted("a", 3, (Charge("usd|day", 90),)),))


def test_a_restart_forgets_no_spend() -> None:
    store = MemoryStore(lambda: NOW)
    assert store.needs_load() is True
    assert isinstance(store.apply([reserve("b")])[0], Again)
    assert store.load(lambda: TRUTH) is True
    assert store.needs_load() is False
    refused, repeated, admitted = store.apply([reserve("b", hold(11)), settle("a", 90), reserve("c", hold(10))])
    assert (refused.why, repeated.changed, type(admitted)) == ("insufficient", False, Admitted)  # type: ignore[union-attr]


def test_a_warm_store_is_loaded_again_only_when_told() -> None:
    store = MemoryStore(lambda: NOW)
    assert store.load(lambda: TRUTH) is True
    assert store.load(lambda: TRUTH) is False
    assert store.load(lambda: Truth((), ()), rebuild=True) is True
    assert store.book.balances == {}


def test_a_large_truth_goes_in_by_pieces() -> None:
    store = MemoryStore(lambda: NOW)
    sums = [Charge(f"usd|{i}", i) for i in range(1_234)]
    counted = [Counted(f"rid-{i}", 3, ()) for i in range(777)]
    assert store.load(lambda: Truth(sums, counted)) is True
    assert (len(store.book.balances), len(store.book.records)) == (1_234, 777)
    assert store.unknown(["rid-776", "rid-777"]) == ["rid-777"]


def test_a_cold_store_knows_nothing_as_settled() -> None:
    assert MemoryStore().unknown(["a", "b"]) == ["a", "b"]


def test_the_clock_is_the_systems_unless_told() -> None:
    store = MemoryStore()
    store.load(lambda: Truth((), ()))
    (answer,) = store.apply([Settle("a", 3, 2**60, ())])
    assert answer.now > 1_700_000_000_000


@pytest.mark.parametrize(
    ("url", "kind", "blocking"),
    [
        ("memory://", MemoryStore, MemoryStore),
        ("redis://localhost/0", AsyncRedisStore, RedisStore),
        ("rediss://localhost", AsyncRedisStore, RedisStore),
        ("unix:///nowhere/socket", AsyncRedisStore, RedisStore),
    ],
)
def test_the_scheme_chooses_the_store(url: str, kind: type, blocking: type) -> None:
    assert type(open_store(url)) is kind
    assert type(open_blocking_store(url)) is blocking


def test_an_unknown_scheme_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"there is no store for etcd://; use one of memory://, redis://"):
        open_store("etcd://localhost")
