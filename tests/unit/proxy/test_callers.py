"""Callers of running requests: who hung up, and who is too slow."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from llmguard.proxy import callers as module
from llmguard.proxy.callers import Caller, Callers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep every ten milliseconds."""
    monkeypatch.setattr(module, "SWEEP", 0.01)


class Line:
    """A connection as an application sees it: silent until the caller hangs up."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        self.listeners = 0

    async def receive(self) -> dict[str, Any]:
        self.listeners += 1
        try:
            await self.hung_up.wait()
        finally:
            self.listeners -= 1
        return {"type": "http.disconnect"}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


async def request(callers: Callers, line: Line, seconds: float, *, listen: bool = False, watch: bool = False) -> Caller:
    """A request that never ends by itself; returns its caller, once it was cancelled."""
    caller = callers.enter(line.receive, seconds)
    try:
        if listen:
            callers.listen(caller)
        if watch:
            caller.watch()
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return caller
    finally:
        callers.leave(caller)
    raise AssertionError("nobody ended it")


@pytest.mark.parametrize("how", ["listen", "watch"])
def test_a_caller_who_hangs_up_ends_its_request(how: str) -> None:
    async def work() -> None:
        callers, line = Callers(), Line()
        task = asyncio.create_task(request(callers, line, 60, **{how: True}))
        while not line.listeners:
            await asyncio.sleep(0)
        line.hung_up.set()
        assert (await task).gone == "hung_up"
        assert len(callers) == 0

    run(work())


def test_a_caller_is_not_listened_to_before_its_body_was_read() -> None:
    """Its body would be taken away from the reader."""

    async def work() -> None:
        callers, line = Callers(), Line()
        task = asyncio.create_task(request(callers, line, 0.05))
        assert (await task).gone == "too_slow"
        assert line.listeners == 0

    run(work())


def test_a_request_that_is_over_at_once_is_never_listened_to() -> None:
    async def work() -> None:
        callers, line = Callers(), Line()
        caller = callers.enter(line.receive, 60)
        callers.listen(caller)
        callers.leave(caller)
        await asyncio.sleep(0.03)
        assert line.listeners == 0

    run(work())


def test_progress_moves_the_deadline() -> None:
    async def work() -> None:
        callers, line = Callers(), Line()
        caller = callers.enter(line.receive, 0.03)
        for _ in range(8):
            caller.extend(0.03)
            await asyncio.sleep(0.01)
        assert caller.gone is None
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
        assert caller.gone == "too_slow"
        callers.leave(caller)

    run(work())


def test_only_the_slow_ones_of_many_are_ended() -> None:
    async def work() -> None:
        callers = Callers()
        slow = [asyncio.create_task(request(callers, Line(), 0.02)) for _ in range(5)]
        lasting = [asyncio.create_task(request(callers, Line(), 60)) for _ in range(5)]
        assert [caller.gone for caller in await asyncio.gather(*slow)] == ["too_slow"] * 5
        assert len(callers) == 5
        for task in lasting:
            task.cancel()
        assert [caller.gone for caller in await asyncio.gather(*lasting)] == [None] * 5

    run(work())


def test_the_first_reason_stands() -> None:
    async def work() -> None:
        callers, line = Callers(), Line()
        task = asyncio.create_task(request(callers, line, 60, watch=True))
        while not line.listeners:
            await asyncio.sleep(0)
        (caller,) = callers._all
        caller.cancel("too_slow")
        line.hung_up.set()
        assert (await task).gone == "too_slow"

    run(work())


def test_who_has_left_is_not_listened_to_any_more() -> None:
    async def work() -> None:
        callers, line = Callers(), Line()
        caller = callers.enter(line.receive, 60)
        caller.watch()
        caller.watch()
        await asyncio.sleep(0)
        assert line.listeners == 1
        callers.leave(caller)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (line.listeners, caller.gone) == (0, None)

    run(work())


def test_without_requests_nothing_is_swept_and_with_the_next_one_it_is_again() -> None:
    async def work() -> None:
        callers = Callers()
        for _ in range(2):
            caller = callers.enter(Line().receive, 60)
            assert callers._timer is not None
            callers.leave(caller)
            while callers._timer is not None:
                await asyncio.sleep(0.005)

    run(work())
