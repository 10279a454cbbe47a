"""A closed loop of callers: each of N connections sends its next call when the last was answered whole.

Run as ``python -m benchmarks.load --port P …``; prints one JSON object. It ends by time or by count, whichever comes
first, and then waits for the replies still under way, so that every call sent is a call counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from array import array
from typing import TypedDict, cast

import httptools
import uvloop

from benchmarks.messages import Reply, request, stream_reply, whole_reply

DRAIN_SECONDS = 30


class Summary(TypedDict):
    """What a run printed: calls answered and refused, latencies in milliseconds, reads, and its own CPU time."""

    ok: int
    refused: int
    refusal: str
    seconds: float
    p50_ms: float
    p99_ms: float
    reads: int
    cpu_seconds: float


class BrokenReply(Exception):
    """A connection was closed under way, or a reply had the wrong length."""


class Run:
    """What all connections share: the call's bytes, the limits and the tally.

    ``waits`` are nanoseconds from the write of a call to the end of its reply; ``refusal`` shows the last reply that
    was not 200.
    """

    def __init__(self, call: bytes, expected: Reply, connections: int, calls: int, seconds: float) -> None:
        self.call = call
        self.body_bytes = expected.body_bytes
        self.left = calls
        self.running = connections
        self.until = time.perf_counter_ns() + int(seconds * 1e9)
        self.waits = array("Q")
        self.refused = 0
        self.refusal = ""
        self.reads = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, now: int) -> bool:
        """Whether one more call may be sent."""
        if self.left <= 0 or now >= self.until:
            return False
        self.left -= 1
        return True

    def leave(self) -> None:
        """One connection has nothing more to do."""
        self.running -= 1
        if self.running == 0 and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, why: str) -> None:
        """End the run with an error."""
        if not self.finished.done():
            self.finished.set_exception(BrokenReply(why))


class Caller(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0
        self._body_bytes = 0
        self._last = b""
        self._complete = False
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done:
            self._run.fail(f"the server closed a connection: {exc}")

    def start(self) -> None:
        """Send the next call, or finish."""
        now = time.perf_counter_ns()
        if self._run.take(now):
            self._sent = now
            self._body_bytes = 0
            self._transport.write(self._run.call)
        else:
            self._done = True
            self._transport.close()
            self._run.leave()

    def data_received(self, data: bytes) -> None:
        self._run.reads += 1
        self._parser.feed_data(data)
        if self._complete:
            self._complete = False
            self._count()
            self.start()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._last = body

    def on_message_complete(self) -> None:
        self._complete = True

    def _count(self) -> None:
        run = self._run
        status = self._parser.get_status_code()
        if status != 200:
            run.refused += 1
            run.refusal = f"{status} {self._last[:500].decode(errors='replace')}"
            return
        if self._body_bytes != run.body_bytes:
            run.fail(f"a reply of {self._body_bytes} bytes instead of {run.body_bytes}")
        run.waits.append(time.perf_counter_ns() - self._sent)


async def drive(arguments: argparse.Namespace) -> Summary:
    """Run the loop and sum it up."""
    loop = asyncio.get_running_loop()
    call = request(
        f"127.0.0.1:{arguments.port}", arguments.authorization, stream=arguments.stream, no_store=arguments.no_store
    )
    expected = stream_reply() if arguments.stream else whole_reply()
    run = Run(call, expected, arguments.connections, arguments.calls, arguments.seconds)
    opened = [
        await loop.create_connection(lambda: Caller(run), "127.0.0.1", arguments.port)
        for _ in range(arguments.connections)
    ]
    cpu, started = sum(os.times()[:2]), time.perf_counter()
    run.until = time.perf_counter_ns() + int(arguments.seconds * 1e9)
    for _, caller in opened:
        caller.start()
    async with asyncio.timeout(arguments.seconds + DRAIN_SECONDS):
        await run.finished
    elapsed = time.perf_counter() - started
    return _summary(run, elapsed, sum(os.times()[:2]) - cpu)


def _summary(run: Run, elapsed: float, cpu: float) -> Summary:
    waits = sorted(run.waits)
    count = len(waits)

    def quantile(q: float) -> float:
        return waits[min(int(count * q), count - 1)] / 1e6 if count else 0.0

    return {
        "ok": count,
        "refused": run.refused,
        "refusal": run.refusal,
        "seconds": elapsed,
        "p50_ms": quantile(0.50),
        "p99_ms": quantile(0.99),
        "reads": run.reads,
        "cpu_seconds": cpu,
    }


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--authorization", default="sk-bench")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--calls", type=int, default=2_000_000)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--no-store", action="store_true", help="keep the calls away from a cache")
    return parser.parse_args(argv)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(drive(_arguments(sys.argv[1:])))))
