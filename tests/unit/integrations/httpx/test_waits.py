"""The two ways of waiting take the same flow through the same steps."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from llmguard.integrations.httpx.waits import Awaiting, Blocking, Body, Collect, Flow, Forward, Sleep


def flow(limit: int) -> Flow[list[Any]]:
    """Everything once, and what comes back."""
    request = httpx2.Request("POST", "https://example.com/", content=b"asked")
    seen = [(yield Body(request))]
    response = yield Forward(request)
    yield Sleep(0.0)
    collected = yield Collect(response.stream, limit)
    seen.append((collected.data, collected.rest is not None))
    try:
        yield Forward(None)
    except httpx2.ConnectError as error:
        seen.append(str(error))
    return seen


class Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __iter__(self) -> Any:
        yield from (b"one", b"two")

    async def __aiter__(self) -> Any:
        yield b"one"
        yield b"two"


def forward(request: Any) -> Any:
    if request is None:
        raise httpx2.ConnectError("nobody there")
    return httpx2.Response(200, stream=Pieces())


async def aforward(request: Any) -> Any:
    return forward(request)


@pytest.mark.parametrize(("limit", "collected"), [(6, (b"onetwo", False)), (5, (b"onetwo", True)), (2, (b"one", True))])
def test_both_ways_come_to_the_same(limit: int, collected: tuple[bytes, bool]) -> None:
    expected = [b"asked", collected, "nobody there"]
    assert Blocking(forward).drive(flow(limit)) == expected
    assert asyncio.run(Awaiting(aforward).drive(flow(limit))) == expected


def test_what_is_left_begins_again_with_what_was_collected() -> None:
    def some() -> Flow[Any]:
        return (yield Collect(Pieces(), 1))

    assert list(Blocking(forward).drive(some()).rest) == [b"one", b"two"]

    async def main() -> list[bytes]:
        collected = await Awaiting(aforward).drive(some())
        return [part async for part in collected.rest]

    assert asyncio.run(main()) == [b"one", b"two"]


def test_an_error_that_the_flow_lets_through_comes_out() -> None:
    def broken() -> Flow[Any]:
        return (yield Forward(None))

    with pytest.raises(httpx2.ConnectError):
        Blocking(forward).drive(broken())
