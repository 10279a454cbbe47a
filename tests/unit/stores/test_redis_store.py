"""What the store keeps on a server, how it is loaded, and which servers will do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from redis.exceptions import ResponseError

from llmguard.core.moves import Admitted, Charge, Counted, Hold, Release, Reserve, Settle, Truth
from llmguard.errors import ConfigError, StoreUnavailable
from llmguard.stores.redis import AsyncRedisStore, RedisStore, script
from llmguard.stores.redis import server as servers
from tests.support.quota import EMPTY, HOUR, PREFIX, reserve, seconds, settle, warm
from tests.support.valkey import ValkeyServer, cluster_of_one


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def own() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


# ---------------------------------------------------------------------- what is in the server


def test_keys_say_what_they_hold_and_expire(shared: ValkeyServer) -> None:
    store = warm(shared, "layout")
    now = int(time.time() * 1_000)
    window = Hold("usd|hour", 1_000, 1_000, 100, 250, window_start=now - 60_000, window_end=now + HOUR)
    store.apply([Reserve("live", "p1", 60_000, (window,)), settle("done")])
    with shared.client() as client:
        prefix = "llmguard:1:{layout}:"
        assert client.hgetall(prefix + "b:usd|hour") == {
            b"settled": b"0",
            b"held": b"100",
            b"exposure": b"250",
            b"orphan": b"0",
        }
        assert client.pexpiretime(prefix + "b:usd|hour") == window.window_end + 48 * HOUR
        assert client.pexpiretime(prefix + "b:usd|total") == -1
        assert client.pexpiretime(prefix + "r:live") == -1
        assert 1_790_000 < client.pttl(prefix + "r:done") <= 1_800_000
        ((rid, due),) = client.zrange(prefix + "leases", 0, -1, withscores=True)
        assert (rid, due - now) == (b"live", pytest.approx(60_000, abs=5_000))
    store.close()


def test_a_tombstone_is_small(shared: ValkeyServer) -> None:
    store = warm(shared, "small")
    store.apply([Settle("01905c4e-1111-7000-8000-000000000000", 3, int(time.time() * 1_000), charges(4))])
    with shared.client() as client:
        key = "llmguard:1:{small}:r:01905c4e-1111-7000-8000-000000000000"
        assert len(client.get(key)) <= 25
        assert client.memory_usage(key) <= 220
    store.close()


def charges(count: int) -> tuple[Charge, ...]:
    return tuple(Charge(f"usd|total|{i}", 1_000_000) for i in range(count))


def test_namespaces_do_not_meet(shared: ValkeyServer) -> None:
    one, two = warm(shared, "one"), warm(shared, "two")
    one.apply([reserve("a", 1_000)])
    assert isinstance(two.apply([reserve("a", 1_000)])[0], Admitted)
    one.close()
    two.close()


@pytest.mark.parametrize("namespace", ["", "a}b", "a{b", "a b", "x" * 65])
def test_a_namespace_cannot_break_out_of_its_tag(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        RedisStore("redis://localhost", namespace)


def test_the_time_of_a_real_namespace_is_the_servers(shared: ValkeyServer) -> None:
    warm(shared, "clock").close()
    with shared.client() as client, pytest.raises(ResponseError, match="not to be chosen"):
        client.execute_command(*script.invocation("llmguard:1:{clock}:", b"\x93\x00\x00\x00", (), 1))


def test_long_batches_are_cut_and_answered_in_order(shared: ValkeyServer) -> None:
    store = warm(shared, "long")
    moves = [settle(f"{i:04}", 1) for i in range(1_200)]
    answers = store.apply([*moves, *moves[:300]])
    assert [answer.changed for answer in answers] == [True] * 1_200 + [False] * 300  # type: ignore[union-attr]
    rids = [move.rid for move in moves]
    assert store.unknown([*rids, "other"]) == ["other"]
    store.close()


# ---------------------------------------------------------------------- loading


def test_a_load_wipes_what_is_left_and_keeps_the_rest(shared: ValkeyServer) -> None:
    store = warm(shared, "wipe")
    store.apply([reserve("old"), settle("older")])
    truth = Truth([Charge("usd|total", 990)], [Counted("counted", 3, (Charge("usd|total", 90),))])
    assert store.needs_load() is False
    assert store.load(lambda: truth) is False
    assert store.load(lambda: truth, rebuild=True) is True
    repeated, refused = store.apply([settle("counted", 90), reserve("new", 11)])
    assert (repeated.changed, refused.why) == (False, "insufficient")  # type: ignore[union-attr]
    with shared.client() as client:
        assert client.exists("llmguard:1:{wipe}:r:old", "llmguard:1:{wipe}:r:older") == 0
        assert client.zcard("llmguard:1:{wipe}:leases") == 0
    store.close()


def test_of_two_loaders_one_has_the_turn(shared: ValkeyServer) -> None:
    first, second = (RedisStore(shared.url, "turn", grace_ms=0) for _ in range(2))
    seen: list[bool] = []

    def read() -> Truth:
        seen.append(second.load(lambda: EMPTY))
        return EMPTY

    assert first.needs_load() is True
    assert first.load(read) is True
    assert seen == [False]
    first.close()
    second.close()


def test_a_loader_that_lost_its_turn_deletes_and_writes_nothing(shared: ValkeyServer) -> None:
    slow, quick = (RedisStore(shared.url, "lost", grace_ms=0) for _ in range(2))

    def overtaken() -> Truth:
        with shared.client() as client:
            client.set("llmguard:1:{lost}:fence", "1 0 60000")  # its time is over
        assert quick.load(lambda: Truth([Charge("usd|total", 500)], ())) is True
        return Truth([Charge("usd|total", 1)], ())

    assert slow.load(overtaken) is False
    with shared.client() as client:
        assert client.hget("llmguard:1:{lost}:b:usd|total", "settled") == b"500"
        assert client.eval(script.WIPE, 2, "llmguard:1:{lost}:fence", "llmguard:1:{lost}:b:usd|total", 1) == 0
        assert client.exists("llmguard:1:{lost}:b:usd|total") == 1
    slow.close()
    quick.close()


def test_reserves_wait_for_the_leases_of_others_after_a_load(own: ValkeyServer) -> None:
    store = RedisStore(own.url)
    store.load(lambda: EMPTY)
    answer, settled = store.apply([reserve("a"), settle("b")])
    assert (answer.why, settled.changed) == ("cold", True)  # type: ignore[union-attr]
    with own.client() as client:
        opens_at = int(client.get(PREFIX + "epoch") or 0)
    assert opens_at - answer.now == pytest.approx(20_000, abs=2_000)
    store.close()


def test_an_untouched_ledger_has_no_leases_to_wait_for(own: ValkeyServer) -> None:
    store = RedisStore(own.url)
    store.load(lambda: Truth((), (), untouched=True))
    assert isinstance(store.apply([reserve("a")])[0], Admitted)
    store.close()


# ---------------------------------------------------------------------- servers that will not do


def test_eviction_is_an_error_at_the_start(own: ValkeyServer) -> None:
    store = RedisStore(own.url)
    store.check()
    with own.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(
        ConfigError, match="maxmemory-policy allkeys-lru and may throw spend away; set it to noeviction"
    ):
        store.check()
    store.close()


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"redis_version": "6.2.14", "role": "master"}, r"is Redis 6\.2\.14; use Redis 7\.0, Valkey 7\.2 or newer"),
        ({"redis_version": "7.2.4", "role": "slave"}, "is a replica; name the primary"),
    ],
)
def test_old_servers_and_replicas_are_errors(info: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        servers.demand("redis://localhost", info)


def test_check_of_a_server_that_is_away() -> None:
    with pytest.raises(StoreUnavailable):
        RedisStore("redis://127.0.0.1:1").check()


# ---------------------------------------------------------------------- clusters


def test_a_cluster_keeps_a_namespace_in_one_slot() -> None:
    with cluster_of_one() as cluster:
        url = cluster.tcp_url.replace("redis://", "redis+cluster://").removesuffix("/0")
        store = RedisStore(url, grace_ms=0)
        store.check()
        assert store.load(lambda: EMPTY) is True
        admitted, settled, released = store.apply([reserve("a"), settle("a"), Release("b")])
        assert (type(admitted), settled.changed, released.changed) == (Admitted, True, True)  # type: ignore[union-attr]
        assert store.unknown(["a", "b"]) == ["b"]
        assert store.needs_load() is False
        store.close()

        async def calls() -> None:
            other = AsyncRedisStore(url)
            assert isinstance((await other.apply([reserve("c")]))[0], Admitted)
            await other.check()
            assert await other.load(lambda: Truth([Charge("usd|total", 5)], ()), rebuild=True) is True
            await other.aclose()

        asyncio.run(calls())


def test_a_cluster_that_is_away_is_told_in_time() -> None:
    url = "redis+cluster://127.0.0.1:1"
    assert seconds(lambda: RedisStore(url).apply([reserve("a")])) < 0.5
    assert seconds(lambda: asyncio.run(AsyncRedisStore(url).apply([reserve("a")]))) < 0.5
