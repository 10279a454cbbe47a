"""What every back end of the cache does, in memory and on Valkey."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from llmguard.stores.cache import MemoryCache
from llmguard.stores.cache.ports import Backend, CacheAway
from llmguard.stores.cache.redis import AsyncRedisCache, RedisCache
from tests.support.valkey import ValkeyServer

ROOM = 1_000
HOUR = 3_600_000


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        yield MemoryCache(ROOM)
        return
    server: ValkeyServer = request.getfixturevalue("valkey")
    with server.client() as client:
        client.flushall()
    backend = RedisCache(server.url, ROOM)
    yield backend
    backend.close()


def test_the_first_asker_fetches_and_the_others_wait_for_what_it_keeps(cache: Backend) -> None:
    assert cache.look(["t/a"], "one").claimed
    second = cache.look(["t/a"], "two")
    assert (second.blob, second.claimed) == (None, False)
    assert cache.put("t/a", b"answer", HOUR, "one")
    assert cache.look(["t/a"], "two").blob == b"answer"


def test_a_claim_that_is_given_up_passes_to_the_next(cache: Backend) -> None:
    assert cache.look(["t/a"], "one").claimed
    cache.give_up("t/a", "two")
    assert not cache.look(["t/a"], "two").claimed
    cache.give_up("t/a", "one")
    assert cache.look(["t/a"], "two").claimed


def test_a_caller_that_asks_twice_keeps_its_claim(cache: Backend) -> None:
    assert cache.look(["t/a"], "one").claimed
    assert cache.look(["t/a"], "one").claimed


def test_a_look_without_an_owner_claims_nothing(cache: Backend) -> None:
    assert not cache.look(["t/a"], None).claimed
    assert cache.look(["t/a"], "one").claimed


def test_an_entry_is_found_under_an_older_name_too(cache: Backend) -> None:
    cache.put("old/a", b"answer", HOUR, None)
    found = cache.look(["new/a", "old/a"], "one")
    assert (found.blob, found.index) == (b"answer", 1)


def test_what_was_not_used_for_longest_makes_room(cache: Backend) -> None:
    for name in ("t/a", "t/b", "t/c"):
        assert cache.put(name, b"x" * 300, HOUR, None)
    assert cache.look(["t/a"], None).blob is not None
    assert cache.put("t/d", b"x" * 300, HOUR, None)
    left = [name for name in ("t/a", "t/b", "t/c", "t/d") if cache.look([name], None).blob]
    assert left == ["t/a", "t/c", "t/d"]
    stats = cache.stats()
    assert (stats.entries, stats.bytes) == (3, 900)


def test_an_entry_that_is_written_again_is_counted_once(cache: Backend) -> None:
    cache.put("t/a", b"x" * 600, HOUR, None)
    cache.put("t/a", b"y" * 500, HOUR, None)
    assert cache.look(["t/a"], None).blob == b"y" * 500
    assert cache.stats().bytes == 500


def test_an_entry_larger_than_the_cache_is_not_kept_and_drops_nothing(cache: Backend) -> None:
    cache.put("t/a", b"x", HOUR, None)
    assert not cache.put("t/b", b"x" * (ROOM + 1), HOUR, None)
    assert cache.look(["t/a"], None).blob == b"x"


def test_purge_drops_one_tenants_entries_or_all(cache: Backend) -> None:
    for name in ("t/a", "t/b", "u/a"):
        cache.put(name, b"x", HOUR, None)
    assert cache.purge("t") == 2
    assert cache.look(["u/a"], None).blob == b"x"
    assert cache.purge() == 1
    assert (cache.stats().entries, cache.stats().bytes) == (0, 0)


def test_an_entry_ends_with_its_time() -> None:
    now = 0
    cache = MemoryCache(ROOM, lambda: now)
    cache.put("t/a", b"x", 1_000, None)
    now = 999
    assert cache.look(["t/a"], None).blob == b"x"
    now = 1_000
    assert cache.look(["t/a"], None).blob is None
    assert cache.stats().bytes == 0


def test_an_entry_in_redis_has_an_end(valkey: ValkeyServer) -> None:
    cache = RedisCache(valkey.url, ROOM)
    cache.put("t/end", b"x", 5_000, None)
    with valkey.client() as client:
        (key,) = client.keys("*c:t/end")
        assert 0 < client.pttl(key) <= 5_000
    cache.close()


def test_many_at_once_claim_a_name_once(cache: Backend) -> None:
    with ThreadPoolExecutor(16) as pool:
        looks = list(pool.map(lambda i: cache.look(["t/a"], f"asker-{i}"), range(64)))
    assert sum(look.claimed for look in looks) == 1


def test_both_back_ends_answer_alike(valkey: ValkeyServer) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with valkey.client() as client:
        client.flushall()
    memory, redis = MemoryCache(ROOM), RedisCache(valkey.url, ROOM)
    for _ in range(400):
        name, owner = dice.choice(["t/a", "t/b", "u/a", "u/c"]), dice.choice(["one", "two"])
        match dice.randrange(4):
            case 0:
                one, two = memory.look([name], owner), redis.look([name], owner)
                assert (one.blob, one.claimed) == (two.blob, two.claimed)
            case 1:
                blob = dice.randbytes(dice.randrange(1, 1_200))
                assert memory.put(name, blob, HOUR, owner) == redis.put(name, blob, HOUR, owner)
            case 2:
                memory.give_up(name, owner)
                redis.give_up(name, owner)
            case _:
                assert memory.stats() == redis.stats()
    redis.close()


def test_a_server_that_is_gone_says_so_at_once_and_is_left_alone(valkey: ValkeyServer) -> None:
    cache = RedisCache("redis://127.0.0.1:1/0", ROOM)
    for _ in range(2):
        with pytest.raises(CacheAway, match=r"127\.0\.0\.1:1"):
            cache.look(["t/a"], "one")


def _fill(cache: RedisCache) -> None:
    for number in range(200):
        cache.put(f"t/{number}", b"x" * 50_000, HOUR, None)


def test_a_full_server_keeps_nothing_more_and_still_answers() -> None:
    with ValkeyServer(maxmemory="6mb", maxmemory_policy="noeviction") as full:
        cache = RedisCache(full.url, 1 << 30)
        with pytest.raises(CacheAway):
            _fill(cache)
        assert cache.look(["t/none"], None).blob is None
        assert cache.look(["t/0"], None).blob == b"x" * 50_000
        assert cache.look(["t/none"], "one").claimed
        cache.close()


def test_the_asynchronous_twin_does_the_same(valkey: ValkeyServer) -> None:
    async def work() -> None:
        with valkey.client() as client:
            client.script_flush()
        cache = AsyncRedisCache(valkey.url, ROOM)
        assert (await cache.look(["v/a"], "one")).claimed
        assert not (await cache.look(["v/a"], "two")).claimed
        assert await cache.put("v/a", b"answer", HOUR, "one")
        assert (await cache.look(["v/a"], "two")).blob == b"answer"
        assert (await cache.look(["v/b"], "one")).claimed
        await cache.give_up("v/b", "one")
        assert (await cache.look(["v/b"], "two")).claimed
        await cache.aclose()

    anyio.run(work)
