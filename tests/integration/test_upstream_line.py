"""The upstream pool against raw servers on loopback, on both event loops: waiting in line, and letting go."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmguard.errors import UpstreamError
from llmguard.forward.options import PoolLimits, Timeouts
from llmguard.forward.pool import PoolStats
from tests.support.pool_calls import HOLD, echo, pool_for, post, read_all, settled
from tests.support.raw_server import (
    CHUNKED_HEAD,
    LAST_CHUNK,
    Peer,
    chunk,
    raw_server,
    reply,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


# The line.


async def test_500_calls_on_64_connections() -> None:
    async with raw_server(echo) as server, pool_for(server, PoolLimits(max_connections=64)) as pool:
        bodies = [b"%d" % i * (i % 50 + 1) for i in range(500)]
        replies = await asyncio.gather(*(pool.send(post(body, hold=HOLD)) for body in bodies))
        assert [r.body for r in replies] == bodies
        assert server.most_open == 64
        assert pool.stats == PoolStats(open=64, idle=64, waiting=0, opened=64)


async def test_line_is_first_in_first_out_and_bounded() -> None:
    order: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            order.append(request.body)
            await peer.send(reply())

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=1, max_waiting=5)) as pool:
        calls = [asyncio.ensure_future(pool.send(post(b"%d" % i, hold=HOLD))) for i in range(6)]
        await asyncio.sleep(0)
        assert pool.stats.waiting == 5
        with pytest.raises(UpstreamError, match="too many calls") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status) == (False, 503)
        await asyncio.gather(*calls)
        assert order == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_waiting_in_line_times_out() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await over.wait()
        await peer.send(reply())
        await peer.gone()

    over = asyncio.Event()
    async with (
        raw_server(script) as server,
        pool_for(server, PoolLimits(max_connections=1), Timeouts(queue=0.1, sweep=0.02)) as pool,
    ):
        first = asyncio.ensure_future(pool.send(post(hold=HOLD)))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="no connection became free") as caught:
            await pool.send(post(before_send=pytest.fail))
        assert (caught.value.sent, caught.value.status) == (False, 503)
        over.set()
        assert (await first).status == 200


async def test_failing_provider_lets_the_line_fail_one_by_one() -> None:
    async with raw_server(echo) as server:
        pass
    async with pool_for(server, PoolLimits(max_connections=2)) as pool:
        results = await asyncio.gather(*(pool.send(post()) for _ in range(10)), return_exceptions=True)
        assert [type(r) for r in results] == [UpstreamError] * 10
        assert pool.stats == PoolStats(open=0, idle=0, waiting=0, opened=0)


# Letting go.


@pytest.mark.parametrize("wire", [b"", CHUNKED_HEAD + chunk(b"x")])
async def test_cancelled_call_drops_its_connection(wire: bytes) -> None:
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)
        arrived.set()
        await peer.gone()

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=1)) as pool:
        call = asyncio.ensure_future(pool.send(post(hold=HOLD)))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert pool.stats.open == 0
        await settled(lambda: server.open == 0)


async def test_cancelled_next_loses_nothing() -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        await more.wait()
        await peer.send(chunk(b"whole") + LAST_CHUNK)
        await peer.gone()

    async with raw_server(script) as server, pool_for(server) as pool:
        incoming = await pool.send(post())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(incoming.next(), 0.02)
        more.set()
        assert await read_all(incoming) == b"whole"
        assert pool.stats.idle == 1


async def test_close_drops_an_unfinished_reply_and_keeps_a_finished_one() -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.body == b"long":
                await peer.send(CHUNKED_HEAD + chunk(b"x"))
            else:
                await peer.send(reply(b"short"))

    async with raw_server(script) as server, pool_for(server) as pool:
        unread = await pool.send(post(b"short"))
        unread.close()
        unread.close()
        assert (pool.stats.open, pool.stats.idle) == (1, 1)
        incoming = await pool.send(post(b"long"))
        assert await incoming.next() == b"x"
        waiting = asyncio.ensure_future(incoming.next())
        await asyncio.sleep(0)
        incoming.close()
        incoming.close()
        with pytest.raises(UpstreamError, match="closed before its end"):
            await waiting
        assert pool.stats.open == 0
        await settled(lambda: server.open == 0)


async def test_cancellations_at_random_moments_leak_nothing() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.send(CHUNKED_HEAD)
            for _ in range(3):
                await asyncio.sleep(0)
                await peer.send(chunk(request.body))
            await peer.send(LAST_CHUNK)

    async def call(i: int) -> bool:
        body = b"%d" % i
        incoming = await pool.send(post(body, hold=rng.choice((0, HOLD))))
        try:
            return await read_all(incoming) == body * 3
        finally:
            incoming.close()

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=8)) as pool:
        calls = [asyncio.ensure_future(call(i)) for i in range(300)]
        for task in rng.sample(calls, 150):
            await asyncio.sleep(rng.choice((0, 0, 0.001)))
            task.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {r for r in results if not isinstance(r, asyncio.CancelledError)} <= {True}
        stats = pool.stats
        assert (stats.open, stats.waiting) == (stats.idle, 0)
        assert stats.open <= 8
        assert all(await asyncio.gather(*(call(i) for i in range(20))))
        await pool.aclose()
        await settled(lambda: server.open == 0)


async def test_aclose_ends_running_and_waiting_calls() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(script) as server, pool_for(server, PoolLimits(max_connections=1)) as pool:
        calls = [asyncio.ensure_future(pool.send(post())) for _ in range(2)]
        await settled(lambda: server.open == 1)
        await asyncio.sleep(0.02)
        await pool.aclose()
        await pool.aclose()
        running, waiting = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(running, UpstreamError)
        assert isinstance(waiting, UpstreamError)
        assert (running.sent, waiting.sent) == (True, False)
        with pytest.raises(UpstreamError, match="pool is closed"):
            await pool.send(post())
        await settled(lambda: server.open == 0)
        assert pool.stats.open == 0
