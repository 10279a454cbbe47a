"""Opening connections: one address after another, within one limit; and what TLS contexts are made of."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmguard.forward.connect import _first_that_answers
from llmguard.forward.dns import Endpoint
from llmguard.forward.tls import client_context, new_client_context


@contextlib.contextmanager
def listening(*, full: bool = False) -> Iterator[Endpoint]:
    """A port that accepts, or (``full``) one whose queue is full, so that connecting to it takes for ever."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0 if full else 8)
        address = server.getsockname()
        if full:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
        yield socket.AF_INET, address


@contextlib.contextmanager
def closed() -> Iterator[Endpoint]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield socket.AF_INET, sock.getsockname()


async def connected_to(endpoints: list[Endpoint], seconds: float) -> tuple[str, int]:
    async with asyncio.timeout(seconds) as limit:
        with await _first_that_answers(endpoints, limit) as sock:
            return sock.getpeername()


def test_next_address_is_tried_when_one_refuses_or_is_silent() -> None:
    with closed() as refuses, listening(full=True) as silent, listening() as answers:
        assert asyncio.run(connected_to([refuses, silent, answers], 1)) == answers[1]
        assert asyncio.run(connected_to([answers, silent], 1)) == answers[1]


def test_last_address_speaks_for_all() -> None:
    with closed() as refuses, listening(full=True) as silent:
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(connected_to([silent, refuses], 0.2))
        with pytest.raises(TimeoutError):
            asyncio.run(connected_to([refuses, silent], 0.2))


def test_tls_context() -> None:
    context = client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert client_context() is context
    assert new_client_context() is not new_client_context()


def test_unusable_ca_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client_context(str(tmp_path / "missing.pem"))
    (tmp_path / "empty.pem").write_text("nothing\n")
    with pytest.raises(ssl.SSLError):
        client_context(str(tmp_path / "empty.pem"))
