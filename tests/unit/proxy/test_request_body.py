"""A request's body is bounded however it arrives, and one that is broken off is nobody's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from llmguard.errors import BadCall
from llmguard.proxy.app import HungUp, _read_body


def read(*parts: bytes, limit: int = 10, hang_up: bool = False) -> bytes:
    """What is read of a body that comes in these parts."""
    messages: Sequence[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": hang_up or number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    queue = [*messages, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return queue.pop(0)

    return asyncio.run(_read_body(receive, limit))


@pytest.mark.parametrize("parts", [(b"",), (b"0123456789",), (b"01234", b"", b"56789"), (b"", b"0123456789", b"")])
def test_a_body_within_the_limit_is_read_whole(parts: tuple[bytes, ...]) -> None:
    assert read(*parts) == b"".join(parts)


@pytest.mark.parametrize("parts", [(b"0123456789x",), (b"0123456789", b"x"), (b"0" * 100, b"x"), (b"", b"0" * 11, b"")])
def test_a_larger_one_is_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(BadCall) as caught:
        read(*parts)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


def test_no_more_is_read_of_one_that_is_too_large() -> None:
    with pytest.raises(BadCall):
        read(b"0123456789", b"x", hang_up=True)


@pytest.mark.parametrize("parts", [(), (b"",), (b"0123", b"4567")])
def test_a_caller_who_hangs_up_in_its_middle_has_asked_for_nothing(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(HungUp):
        read(*parts, hang_up=True)
