"""A small load of calls over raw sockets, which notes of every call what came back and how it ended.

::

    with load(served.port, key, make, callers=16) as running:      # a thread with a loop of its own
        ...                                                         # stop or kill the gateway meanwhile
    for outcome in running.outcomes:
        assert outcome.delivered, outcome

``make`` turns a running number into a request body; its `user` names the call to the provider and in the ledger.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.replies import chat_stream, chunk_of
from tests.support.upstream import SSE, Answer, Seen, answer

CHAT = "/v1/chat/completions"
_AGAIN = 0.1
_EPHEMERAL = 32_768

Body = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """One call: ``pieces`` are the chunks of its reply as they came, ``whole`` says that its framing was complete."""

    user: str
    stream: bool
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def request_id(self) -> str:
        return self.headers.get("x-llmguard-request-id", "")

    @property
    def delivered(self) -> bool:
        """Whether its caller has the answer: SDKs stop at `[DONE]`, not at the end of the body."""
        if self.status != 200:
            return False
        return b"data: [DONE]\n\n" in self.body if self.stream else self.whole


class Line:
    """A keep-alive connection on which one call follows another. Raises what :data:`BROKEN` names.

    ``receive`` is the size of its socket's buffer, in bytes.
    """

    def __init__(self, port: int, key: str, *, receive: int | None = None) -> None:
        self._port = port
        self._key = key
        self._receive = receive
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader

    async def call(self, body: Body, *, path: str = CHAT, into: Outcome | None = None) -> Outcome:
        """Make one call; ``into`` is filled as the reply arrives, so it can be looked at before its end."""
        outcome = into or Outcome(str(body.get("user", "")), bool(body.get("stream")))
        await self.send(body, path=path)
        outcome.status, outcome.headers = await self.head()
        await self._body(outcome)
        outcome.whole = True
        if outcome.headers.get("connection", "").lower() == "close":
            self.close()
        return outcome

    async def send(self, body: Body, *, path: str = CHAT) -> None:
        """Write a request."""
        if self._writer is None:
            self._reader, self._writer = await self._dial()
        self._writer.write(encoded(body, self._key, path))
        await self._writer.drain()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if self._receive is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            return await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a reply's head: status and headers, names in lower case."""
        lines = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def chunk(self) -> bytes:
        """Read the next chunk of a reply; empty at its end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def some(self) -> bytes:
        """Whatever of a reply's body has come."""
        return await self._reader.read(64 * 1024)

    async def _body(self, outcome: Outcome) -> None:
        length = outcome.headers.get("content-length")
        if length is not None:
            outcome.pieces.append(await self._reader.readexactly(int(length)))
            return
        while piece := await self.chunk():
            outcome.pieces.append(piece)

    def close(self) -> None:
        """Hang up, now."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None


BROKEN = (OSError, asyncio.IncompleteReadError, EOFError)


def encoded(body: Body, key: str, path: str = CHAT) -> bytes:
    """A request as bytes."""
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


class Load:
    """Callers that make call after call until told to stop; a caller whose connection breaks dials again."""

    def __init__(self, port: int, key: str, make: Callable[[int], Body], callers: int) -> None:
        self.outcomes: list[Outcome] = []
        self._port = port
        self._key = key
        self._make = make
        self._callers = callers
        self._number = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="test-load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 60.0) -> None:
        """Make no further calls and wait for the running ones."""
        self._stopping.set()
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"calls did not end in {timeout} s"

    def delivered(self) -> list[Outcome]:
        """The calls whose answers arrived so far."""
        return [outcome for outcome in list(self.outcomes) if outcome.delivered]

    async def _run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(self._callers)))

    async def _caller(self) -> None:
        line = Line(self._port, self._key)
        while not self._stopping.is_set():
            body = self._make(self._number)
            self._number += 1
            outcome = Outcome(body["user"], bool(body.get("stream")))
            self.outcomes.append(outcome)
            try:
                await line.call(body, into=outcome)
            except BROKEN:
                line.close()
            if outcome.status != 200:
                await asyncio.sleep(_AGAIN)
        line.close()


@contextmanager
def load(port: int, key: str, make: Callable[[int], Body], *, callers: int = 16) -> Iterator[Load]:
    """A running load, which has ended after the block."""
    running = Load(port, key, make, callers)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def steady_port() -> int:
    """A free port that no outgoing connection is ever given, for a server that is killed and started again.

    On a port of the ephemeral range, a caller who dials while the server is down may connect to itself.
    """
    while True:
        port = random.randrange(10_000, _EPHEMERAL)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def usage_of(user: str) -> tuple[int, int]:
    """Prompt and completion tokens that :func:`metered` reports for a call."""
    number = int(user.rpartition("-")[2])
    return 100 + number % 50, 20 + number % 30


def metered(*, delay: float = 0.05, gap: float = 0.05, words: int = 6) -> Callable[[Seen], Answer]:
    """A provider that answers every chat call in the form it asks for, with a usage of its own for each `user`.

    A call that asks for a thousand tokens or more gets a kilobyte in each of its ``words``.
    """

    def reply_to(seen: Seen) -> Answer:
        body = seen.json()
        prompt, output = usage_of(body["user"])
        usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        if body.get("stream"):
            wanted = body.get("stream_options", {}).get("include_usage")
            length = 1_000 if body.get("max_tokens", 0) >= 1_000 else 5
            pieces = chat_stream(words, usage if wanted else None, length=length)
            return Answer(headers=[("content-type", SSE)], pieces=pieces, framing="chunked", gap=gap)
        message = {"role": "assistant", "content": "word " * words}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return answer(json_body=chunk_of([choice]) | {"object": "chat.completion", "usage": usage}, delay=delay)

    return reply_to
