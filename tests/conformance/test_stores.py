"""Every store makes the same moves: random batches go to the reference and to a server, and all is compared."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import msgspec
import pytest
from redis import Redis

from llmguard.core.balances import KEEP_MS
from llmguard.core.breakers import Breaker
from llmguard.core.executions import REMEMBERED, Runs
from llmguard.core.leases import Lease, Status
from llmguard.core.limits import Book
from llmguard.core.moves import ROLLING_PARTS, Admitted, Again, Charge, Hold, Level, Release, Reserve, Settle, Truth
from llmguard.core.runs import BreakerTerms, Enter, Leave, Paid, Peek
from llmguard.stores.memory import MemoryStore
from llmguard.stores.redis import AsyncRedisStore, RedisStore
from tests.support.traffic import YEAR_2100, Traffic
from tests.support.valkey import ValkeyServer


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


EMPTY = Truth((), ())

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


class Pair:
    """The reference and a server's store under one clock. Their answers must be equal."""

    def __init__(self, server: ValkeyServer, namespace: str, start: int) -> None:
        self.now = start
        self.memory = MemoryStore(lambda: self.now)
        self.redis = RedisStore(server.url, namespace, grace_ms=0, clock=lambda: self.now)
        self.raw = server.client()
        self.prefix = f"llmguard-test:1:{{{namespace}}}:"

    def load(self, truth: Truth = EMPTY, rebuild: bool = False) -> None:
        assert self.memory.load(lambda: truth, rebuild=rebuild) is True
        assert self.redis.load(lambda: truth, rebuild=rebuild) is True

    def apply(self, moves: list[Any]) -> list[Any]:
        expected = self.memory.apply(moves)
        got = self.redis.apply(moves)
        for move, mine, theirs in zip(moves, expected, got, strict=True):
            assert repr(theirs) == repr(mine), move
        return expected

    def compare(self) -> None:
        assert _from_server(self.raw, self.prefix, self.now) == _from_book(self.memory.book, self.now)

    def close(self) -> None:
        self.redis.close()
        self.raw.close()


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


def _invariants(book: Book) -> None:
    """Held is exactly what live leases hold, and no amount is negative."""
    held: dict[str, int] = {}
    for lease in book.records.values():
        if isinstance(lease, Lease) and lease.status is Status.HELD:
            for taken in lease.taken:
                balance = book.balances.get(taken.name)
                if taken.concurrency or (balance and balance.since <= lease.seq):  # else its bucket has expired
                    held[taken.name] = held.get(taken.name, 0) + taken.estimate
    for name, balance in book.balances.items():
        assert balance.held == held.get(name, 0), name
        assert balance.held >= 0, name
        assert balance.orphan >= 0, name
        assert balance.exposure >= 0, name


def _compare(server: ValkeyServer, seed: int, batches: int) -> None:
    traffic = Traffic(seed)
    pair = Pair(server, f"seed-{seed}", traffic.now)
    try:
        assert isinstance(pair.apply(traffic.batch())[0], Again)
        pair.load()
        for step in range(1, batches + 1):
            pair.now = traffic.advance()
            moves = traffic.batch()
            traffic.learn(moves, pair.apply(moves))
            _invariants(pair.memory.book)
            if step % 25 == 0:
                pair.compare()
            if step % 150 == 0:
                pair.load(traffic.truth(), rebuild=True)
                pair.compare()
    finally:
        pair.close()


@pytest.mark.parametrize("seed", range(6))
def test_random_moves_get_the_same_answers_and_leave_the_same_state(server: ValkeyServer, seed: int) -> None:
    _compare(server, seed, 500)


def test_the_oldest_supported_redis_does_the_same(redis_server: ValkeyServer) -> None:
    _compare(redis_server, 100, 300)


def test_more_lost_runs_than_are_kept_one_by_one_are_counted_alike(server: ValkeyServer) -> None:
    pair = Pair(server, "lost", YEAR_2100)
    try:
        pair.load()
        for number in range(REMEMBERED + 4):
            pair.apply([Enter("task:a", f"r{number}", "name:x", 1_000), Paid("task:a", f"r{number}")])
            pair.now += 1_000
        pair.compare()
        (seen,) = pair.apply([Peek(("task:a", "name:x"))])
        assert (seen.standings[0].lost, seen.standings[0].paid) == (REMEMBERED + 4, REMEMBERED + 4)
        pair.apply(
            [Leave("task:a", "r0", "name:x", False, True, False), Leave("task:a", "r9", "name:x", True, True, True)]
        )
        pair.compare()
    finally:
        pair.close()


def test_a_breaker_opens_and_its_canaries_decide_alike(server: ValkeyServer) -> None:
    pair = Pair(server, "breaker", YEAR_2100)
    verdicts = []
    try:
        pair.load()
        for step, succeeded in enumerate((False, False, False, False, False, False, True, True)):
            enter = Enter(f"task:{step}", "r", "name:x", 60_000, breaker=BreakerTerms(3, 500_000, 90_000))
            (entered,) = pair.apply([enter])
            verdicts.append((entered.verdict, entered.opened))
            if entered.verdict == "go":
                pair.apply([Leave(f"task:{step}", "r", "name:x", succeeded, True, succeeded)])
            pair.compare()
            pair.now += 90_000 if entered.opened or step == 4 else 5_000
        opened = [("go", False)] * 3 + [("breaker", True), ("go", False), ("go", False)]
        assert verdicts == [*opened, ("breaker", False), ("breaker", False)]
        pair.now += 90_000
        last = Enter("task:9", "r", "name:x", 60_000, breaker=BreakerTerms(3, 500_000, 90_000))
        assert pair.apply([last, Leave("task:9", "r", "name:x", True, True, True)])[0].verdict == "go"
        assert pair.apply([Peek(("name:x",))])[0].standings[0].open_until is None
        pair.compare()
    finally:
        pair.close()


def test_amounts_beyond_nine_million_dollars_are_exact(server: ValkeyServer) -> None:
    pair = Pair(server, "large", YEAR_2100)
    huge = 3 * 2**53 + 1
    try:
        pair.load(Truth((Charge("usd|total", huge), Charge("usd|other", 2**52 - 1)), ()))
        pair.apply([Settle("a", 3, pair.now, (Charge("usd|total", 3), Charge("usd|other", 2**20 + 1)))])
        pair.apply([Settle("b", 3, pair.now, (Charge("usd|total", 1), Charge("usd|other", 1)))])
        pair.compare()
        assert pair.memory.book.balances["usd|total"].settled == huge + 4
    finally:
        pair.close()


def test_a_store_that_forgot_writes_goes_cold_and_is_loaded_again(server: ValkeyServer) -> None:
    pair = Pair(server, "failover", YEAR_2100)
    try:
        pair.load()
        (first,) = pair.apply([Reserve("a", "p1", 60_000, ())])
        pair.raw.decr(pair.prefix + "seq")
        pair.memory.book.seq -= 1
        answers = pair.apply([Reserve("b", "p1", 60_000, (), seq=first.seq), Release("a")])
        assert [answer.why for answer in answers] == ["cold", "cold"]
        assert pair.redis.needs_load() is pair.memory.needs_load() is True
        pair.load()
        (again,) = pair.apply([Reserve("b", "p1", 60_000, (), seq=first.seq)])
        assert isinstance(again, Admitted)
    finally:
        pair.close()


# ---------------------------------------------------------------------- 500 calls at once against room for 100


def _thousand(rid: str) -> Reserve:
    return Reserve(rid, "p1", 60_000, (Hold("tokens|total", 100_000, 100_000, 1_000, 1_000),))


def _end(rid: str) -> Settle:
    return Settle(rid, 3, 0, (Charge("tokens|total", 1_000),))


def test_500_threads_never_overshoot_in_memory() -> None:
    store = MemoryStore()
    store.load(lambda: EMPTY)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: store.apply([_thousand(f"{i:03}")])[0], range(500)))
    admitted = [f"{i:03}" for i, answer in enumerate(answers) if isinstance(answer, Admitted)]
    assert len(admitted) == 100
    store.apply([_end(rid) for rid in admitted])
    assert repr(store.book.balances["tokens|total"].level()) == repr(Level(100_000, 0, 0, 0))


def _worker(url: str, process: int, start: Barrier, admitted: Queue[list[str]]) -> None:
    async def calls() -> list[str]:
        store = AsyncRedisStore(url, "rush")
        start.wait(30)
        rids = [f"{process}-{i:03}" for i in range(125)]
        answers = await asyncio.gather(*[store.apply([_thousand(rid)]) for rid in rids])
        passed = [rid for rid, (answer,) in zip(rids, answers, strict=True) if isinstance(answer, Admitted)]
        for rid in passed:
            await store.apply([_end(rid)])
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
    (answer,) = store.apply([_thousand("late")])
    assert (answer.why, repr(answer.level)) == ("spent", repr(Level(100_000, 0, 0, 0)))  # type: ignore[union-attr]
    store.close()
