"""What a door has to wait for, and the two ways of waiting.

The way of a call through the door is written once, as a generator that yields one of these and is sent what came of it
(errors are thrown into it). :class:`Blocking` answers it in a thread, :class:`Awaiting` in an event loop, and nothing
else differs between the two worlds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar, assert_never

from llmguard.core.effects import Steps
from llmguard.runtime.process import ProcessService

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Run:
    """Run a piece of core code in this process's service. Comes back: what it returns."""

    service: ProcessService
    steps: Steps[Any]


@dataclass(slots=True, eq=False)
class Forward:
    """Send a request with the client's own transport. Comes back: the response, its body not read."""

    request: Any


@dataclass(slots=True, eq=False)
class Body:
    """Read the body of a request. Comes back: bytes."""

    request: Any


@dataclass(slots=True, eq=False)
class Collect:
    """Read a response's raw bytes, up to ``limit`` of them. Comes back: :class:`Collected`."""

    stream: Any
    limit: int


@dataclass(slots=True, eq=False)
class Sleep:
    """Wait. Comes back: None."""

    seconds: float


Wait = Run | Forward | Body | Collect | Sleep
Flow = Generator[Wait, Any, T]


@dataclass(slots=True, eq=False)
class Collected:
    """The beginning of a response; ``rest`` begins with it again where there is more, and is None where that is all."""

    data: bytes
    rest: Any


class Blocking:
    """Waits in the thread that calls. ``forward`` sends a request."""

    def __init__(self, forward: Callable[[Any], Any]) -> None:
        self._forward = forward

    def drive(self, flow: Flow[T]) -> T:
        """Take a call through the door."""
        try:
            wait = next(flow)
            while True:
                try:
                    reply = self._answer(wait)
                except BaseException as error:  # noqa: BLE001  thrown into the flow, which puts it on record
                    wait = flow.throw(error)
                else:
                    wait = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _answer(self, wait: Wait) -> Any:
        match wait:
            case Run():
                return wait.service.run(wait.steps)
            case Forward():
                return self._forward(wait.request)
            case Body():
                return wait.request.read()
            case Collect():
                return _collect(wait.stream, wait.limit)
            case Sleep():
                return time.sleep(wait.seconds)
            case _:
                assert_never(wait)


class Awaiting:
    """The asynchronous twin of :class:`Blocking`."""

    def __init__(self, forward: Callable[[Any], Awaitable[Any]]) -> None:
        self._forward = forward

    async def drive(self, flow: Flow[T]) -> T:
        """Take a call through the door."""
        try:
            wait = next(flow)
            while True:
                try:
                    reply = await self._answer(wait)
                except BaseException as error:  # noqa: BLE001  thrown into the flow, which puts it on record
                    wait = flow.throw(error)
                else:
                    wait = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _answer(self, wait: Wait) -> Any:
        match wait:
            case Run():
                return await wait.service.arun(wait.steps)
            case Forward():
                return await self._forward(wait.request)
            case Body():
                return await wait.request.aread()
            case Collect():
                return await _acollect(wait.stream, wait.limit)
            case Sleep():
                return await asyncio.sleep(wait.seconds)
            case _:
                assert_never(wait)


def _collect(stream: Any, limit: int) -> Collected:
    pieces, size = iter(stream), 0
    parts: list[bytes] = []
    for part in pieces:
        parts.append(part)
        size += len(part)
        if size > limit:
            return Collected(b"".join(parts), chain(parts, pieces))
    stream.close()
    return Collected(b"".join(parts), None)


async def _acollect(stream: Any, limit: int) -> Collected:
    pieces, size = aiter(stream), 0
    parts: list[bytes] = []
    async for part in pieces:
        parts.append(part)
        size += len(part)
        if size > limit:
            return Collected(b"".join(parts), _achain(parts, pieces))
    await stream.aclose()
    return Collected(b"".join(parts), None)


async def _achain(parts: list[bytes], rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part
    async for part in rest:
        yield part
