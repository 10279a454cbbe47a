"""What tests of an upstream engine share: requests, a pool that is always closed, bounded waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from llmguard.forward.engine import Headers, Incoming, Outgoing
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.pool import Pool
from tests.support.raw_server import Peer, RawServer, reply

HOLD = 256 * 1024
QUICK = Timeouts(connect=5, tls=5, queue=5, write=5, first_byte=5, silence=5, total=20, sweep=0.02)


@contextlib.asynccontextmanager
async def pool_for(
    server: RawServer, limits: PoolLimits | None = None, timeouts: Timeouts = QUICK
) -> AsyncIterator[Pool]:
    pool = Pool(Origin("http", "127.0.0.1", server.port, internal=True), limits, timeouts)
    async with contextlib.aclosing(pool):
        yield pool


def post(
    body: bytes = b"{}",
    *,
    hold: int = 0,
    before_send: Callable[[], None] = lambda: None,
    headers: Headers | None = None,
    target: bytes = b"/v1/x",
) -> Outgoing:
    return Outgoing("POST", target, headers or [(b"content-type", b"application/json")], body, before_send, hold)


async def read_all(incoming: Incoming) -> bytes:
    if incoming.body is not None:
        return incoming.body
    body = b""
    while data := await incoming.next():
        body += data
    return body


async def settled(condition: Callable[[], bool]) -> None:
    """Wait, bounded, for something that the other end must first notice."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def echo(peer: Peer) -> None:
    """Answer every request with its own body."""
    while True:
        await peer.send(reply((await peer.request()).body))
