"""The reply between connection and relay: holding, pausing, waking; no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Headers
from llmguard.forward.reply import PAUSE_ABOVE, Reply

FAULT = UpstreamError("cut", sent=True)


@dataclass
class Head:
    status: int = 200
    headers: Headers = field(default_factory=list)
    length: int | None = None
    event_stream: bool = False


@dataclass
class Source:
    calls: list[str] = field(default_factory=list)

    def resume(self) -> None:
        self.calls.append("resume")

    def drop(self) -> None:
        self.calls.append("drop")


def run(test: Callable[[Callable[[int], Reply], Source], Awaitable[None]]) -> None:
    async def main() -> None:
        source = Source()
        await test(lambda hold: Reply(asyncio.get_running_loop(), source, hold), source)

    asyncio.run(main())


async def pending(waiting: Awaitable[object]) -> asyncio.Future[object]:
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    return task


def test_held_reply_wakes_its_reader_once_with_everything() -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(10)
        ready = await pending(reply.ready())
        reply.open(Head())
        for piece in (b"01234", b"56789"):
            assert reply.add(piece) is False
            reply.wake()
            await asyncio.sleep(0)
            assert not ready.done()
        reply.end()
        await ready
        assert reply.body == b"0123456789"
        assert await reply.next() == b""

    run(test)


@pytest.mark.parametrize("head", [Head(event_stream=True), Head(length=11)])
def test_not_held(head: Head) -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(10)
        ready = await pending(reply.ready())
        reply.open(head)
        reply.wake()
        await ready
        reply.add(b"x")
        reply.end()
        assert reply.body is None
        assert [await reply.next(), await reply.next()] == [b"x", b""]

    run(test)


def test_held_reply_that_outgrows_its_limit_flows() -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(10)
        ready = await pending(reply.ready())
        reply.open(Head())
        reply.add(b"0123456789")
        reply.add(b"!")
        reply.wake()
        await ready
        assert reply.body is None
        assert await reply.next() == b"0123456789!"

    run(test)


def test_crowded_reader_pauses_and_resumes_its_source() -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(0)
        reply.open(Head())
        assert reply.add(b"x" * PAUSE_ABOVE) is False
        assert reply.add(b"y") is True
        assert len(await reply.next()) == PAUSE_ABOVE + 1
        assert source.calls == ["resume"]
        reply.add(b"z")
        assert await reply.next() == b"z"
        assert source.calls == ["resume"]

    run(test)


@pytest.mark.parametrize(("hold", "opened"), [(10, True), (10, False), (0, False)])
def test_fault_before_anything_can_be_read(hold: int, opened: bool) -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(hold)
        ready = await pending(reply.ready())
        if opened:
            reply.open(Head())
            reply.add(b"x")
        reply.fail(FAULT)
        with pytest.raises(UpstreamError, match="cut"):
            await ready

    run(test)


def test_fault_comes_after_what_arrived() -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(0)
        reply.open(Head())
        reply.add(b"x")
        reply.fail(FAULT)
        await reply.ready()
        assert await reply.next() == b"x"
        for _ in range(2):
            with pytest.raises(UpstreamError, match="cut"):
                await reply.next()

    run(test)


def test_cancelled_next_loses_nothing() -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        reply = make(0)
        reply.open(Head())
        waiting = await pending(reply.next())
        reply.add(b"x")
        reply.wake()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await reply.next() == b"x"

    run(test)


def test_close_drops_what_is_unfinished_only() -> None:
    async def test(make: Callable[[int], Reply], source: Source) -> None:
        done = make(0)
        done.open(Head())
        done.end()
        done.close()
        assert source.calls == []
        cut = make(0)
        cut.open(Head())
        waiting = await pending(cut.next())
        cut.close()
        cut.close()
        assert source.calls == ["drop"]
        with pytest.raises(UpstreamError, match="closed before its end"):
            await waiting

    run(test)
