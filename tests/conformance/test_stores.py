"""Every store makes the same moves: random batches go to the reference and to a server, and all is compared."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import msgspec
import pytest
from redis import Redis

from llmguard.core.balances import KEEP_MS
from llmguard.core.breakers import Breaker
from llmguard.core.executions import Runs
from llmguard.core.leases import Lease
from llmguard.core.limits import Book
from llmguard.core.moves import ROLLING_PARTS, Admitted, Level, Release, Reserve
from llmguard.stores.memory import MemoryStore
from llmguard.stores.redis import AsyncRedisStore, RedisStore
from llmguard.testing.stores import EMPTY, Pair, StoreClock, StoreSuite, settled, thousand
from tests.support.valkey import ValkeyServer

NAMESPACE = "conformance"
PREFIX = f"llmguard-test:1:{{{NAMESPACE}}}:"


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[ValkeyServer]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("there is no redis-server on the path")
    with ValkeyServer(binary) as server:
        yield server


_RECORD = """
local record, flat = cmsgpack.unpack(redis.call('GET', KEYS[1])), {}
if record[1] > 2 then return cmsgpack.pack(record) end
for i = 1, 7 do flat[i] = record[i] end
local t = 8
while t <= #record do
  local set = cmsgpack.unpack(record[t])
  for i = 1, #set / 6 do
    local e, c = record[t + 2 * i - 1], record[t + 2 * i]
    if e >= 0 then
      for _, value in ipairs({set[6 * i - 5], e, c, set[6 * i - 3], set[6 * i - 2]}) do flat[#flat + 1] = value end
    end
  end
  t = t + #set / 3 + 1
end
return cmsgpack.pack(flat)
"""


def _alive(client: Redis, key: bytes, now: int) -> bool:
    expires = client.pexpiretime(key)
    return expires < 0 or expires > now


def _from_server(client: Redis, prefix: str, now: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "due": {rid.decode(): int(s) for rid, s in client.zrange(prefix + "leases", 0, -1, withscores=True)}
    }
    for key in client.scan_iter(prefix + "*"):
        name = key.decode().removeprefix(prefix)
        if not _alive(client, key, now):
            continue
        expires = max(0, client.pexpiretime(key))
        if name.startswith("b:"):
            fields = {k.decode(): int(v) for k, v in client.hgetall(key).items() if k != b"alerts"}
            parts = {k: v for k, v in fields.items() if re.fullmatch(r"[so]\d+", k) and v}
            amounts = [fields.get(f, 0) for f in ("settled", "orphan", "held", "exposure", "denied")]
            found[name] = (
                _rolled(name, amounts, parts, fields["slot"], expires, now) if "slot" in fields else (amounts, expires)
            )
        elif name.startswith("r:"):
            found[name] = (msgspec.msgpack.decode(client.eval(_RECORD, 1, key)), expires)
        elif name.startswith("g:"):
            found[name] = (*[int(word) for word in client.get(key).split()], expires)
        elif name.startswith("trip:"):
            found[name] = expires
        elif name.startswith("c:"):
            found[name] = ({k.decode(): int(v) for k, v in client.hgetall(key).items()}, expires)
        elif name.startswith(("own:", "brk:")):
            found[name] = (msgspec.msgpack.decode(client.get(key)), expires)
    found["meta"] = [int(client.get(prefix + key) or 0) for key in ("seq", "rules")]
    return found


def _from_book(book: Book, now: int) -> dict[str, Any]:
    leases = {rid: r for rid, r in book.records.items() if isinstance(r, Lease)}
    found: dict[str, Any] = {
        "due": {rid: lease.due for rid, lease in leases.items() if lease.due and _kept(lease, now)}
    }
    for name, b in book.balances.items():
        if not b.expires or now < b.expires:
            sums = {f"{kind}{slot}": part[i] for slot, part in b.parts.items() for i, kind in enumerate("so")}
            amounts = [b.settled, b.orphan, b.held, b.exposure, b.denied]
            parts = {k: v for k, v in sums.items() if v}
            rolled = _rolled(name, amounts, parts, b.slot, b.expires, now) if b.step else (amounts, b.expires)
            found["b:" + name] = rolled
    for rid, record in book.records.items():
        if not _kept(record, now):
            continue
        if isinstance(record, Lease):
            output = -1 if record.max_output is None else record.max_output
            flat: list[Any] = [record.status, record.owner, record.at, record.seq, record.due, record.parts, output]
            for t in record.taken:
                flat += [t.name, t.estimate, t.cap, t.window_end, -1 if t.concurrency else t.rolling_ms]
        else:
            flat = [record.status, record.rev, *record.amounts]
        found["r:" + rid] = (flat, record.until)
    for name, m in book.meters.items():
        if now < m.empty_at:
            found["g:" + name] = (m.used, m.at, m.empty_at)
    for name, until in book.trips.items():
        if not until or now < until:
            found["trip:" + name] = until
    found |= {"c:" + name: (scope.counts, scope.until) for name, scope in book.scopes.items() if now < scope.until}
    found |= {"own:" + key: (_flat_runs(runs), runs.until) for key, runs in book.runs.items() if now < runs.until}
    found |= {"brk:" + name: (_flat_breaker(b), b.until) for name, b in book.breakers.items() if now < b.until}
    found["meta"] = [book.seq, book.rules]
    return found


def _flat_runs(runs: Runs) -> list[Any]:
    flat: list[Any] = [runs.started, runs.vain, runs.forgotten, int(runs.done), len(runs.left), *runs.left]
    for run_id, run in runs.runs.items():
        flat += [run_id, run.due, int(run.paid)]
    return flat


def _flat_breaker(b: Breaker) -> list[Any]:
    flat: list[Any] = [b.open_until, b.cooldown_ms, b.canary, b.canary_until, len(b.endings.counts)]
    for slots in (b.endings, b.entries):
        for slot, pair in slots.counts.items():
            flat += [slot, *pair]
    return flat


def _rolled(name: str, amounts: list[int], parts: dict[str, int], slot: int, expires: int, now: int) -> Any:
    """A rolling bucket as it would stand had it been looked at now: the two need not look equally often."""
    step = int(name.split("|")[1]) // ROLLING_PARTS
    assert expires == (slot + 1 + ROLLING_PARTS) * step + KEEP_MS
    assert amounts[:2] == [sum(v for k, v in parts.items() if k[0] == kind) for kind in "so"]
    return amounts[2:], {k: v for k, v in parts.items() if int(k[1:]) >= now // step - ROLLING_PARTS}


def _kept(record: Any, now: int) -> bool:
    return not record.until or now < record.until


class TestMemory(StoreSuite):
    """The reference keeps its own rules."""

    seeds = range(1)

    @pytest.fixture
    def store(self, clock: StoreClock) -> MemoryStore:
        return MemoryStore(clock)


class TestValkey(StoreSuite):
    """Not the answers alone: the server has in its keys what the reference has in memory."""

    seeds = range(6)
    batches = 500

    @pytest.fixture
    def server(self, server: ValkeyServer) -> ValkeyServer:
        return server

    @pytest.fixture
    def store(self, server: ValkeyServer, clock: StoreClock) -> Iterator[RedisStore]:
        with server.client() as raw:
            raw.flushall()
        store = RedisStore(server.url, NAMESPACE, grace_ms=0, clock=clock)
        yield store
        store.close()

    @pytest.fixture(autouse=True)
    def raw(self, server: ValkeyServer) -> Iterator[Redis]:
        with server.client() as client:
            self.client = client
            yield client

    def compare(self, pair: Pair) -> None:
        now = pair.clock.now
        assert _from_server(self.client, PREFIX, now) == _from_book(pair.reference.book, now)

    def test_a_store_that_forgot_writes_goes_cold_and_is_loaded_again(self, pair: Pair, raw: Redis) -> None:
        pair.load()
        (first,) = pair.apply([Reserve("a", "p1", 60_000, ())])
        raw.decr(PREFIX + "seq")
        pair.reference.book.seq -= 1
        answers = pair.apply([Reserve("b", "p1", 60_000, (), seq=first.seq), Release("a")])
        assert [answer.why for answer in answers] == ["cold", "cold"]
        assert pair.store.needs_load() is pair.reference.needs_load() is True
        pair.load()
        (again,) = pair.apply([Reserve("b", "p1", 60_000, (), seq=first.seq)])
        assert isinstance(again, Admitted)


class TestOldestRedis(TestValkey):
    """The oldest supported server does the same."""

    seeds = range(100, 101)
    batches = 300

    @pytest.fixture
    def server(self, redis_server: ValkeyServer) -> ValkeyServer:
        return redis_server


# ---------------------------------------------------------------------- 500 calls at once against room for 100


def _worker(url: str, process: int, start: Barrier, admitted: Queue[list[str]]) -> None:
    async def calls() -> list[str]:
        store = AsyncRedisStore(url, "rush")
        start.wait(30)
        rids = [f"{process}-{i:03}" for i in range(125)]
        answers = await asyncio.gather(*[store.apply([thousand(rid)]) for rid in rids])
        passed = [rid for rid, (answer,) in zip(rids, answers, strict=True) if isinstance(answer, Admitted)]
        for rid in passed:
            await store.apply([settled(rid)])
        await store.aclose()
        return passed

    admitted.put(asyncio.run(calls()))


def test_500_calls_of_four_processes_never_overshoot_on_a_server(server: ValkeyServer) -> None:
    store = RedisStore(server.url, "rush", grace_ms=0)
    assert store.load(lambda: EMPTY) is True
    context = get_context("spawn")
    start, admitted = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_worker, args=(server.url, i, start, admitted)) for i in range(4)]
    for worker in workers:
        worker.start()
    rids = [rid for _ in workers for rid in admitted.get(timeout=60)]
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len(rids) == len(set(rids)) == 100
    (answer,) = store.apply([thousand("late")])
    assert (answer.why, repr(answer.level)) == ("spent", repr(Level(100_000, 0, 0, 0)))  # type: ignore[union-attr]
    store.close()
