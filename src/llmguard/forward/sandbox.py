"""The sandbox as an upstream engine: no network, the delays and faults that were asked for."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from llmguard.errors import UpstreamError
from llmguard.forward.engine import Headers, Outgoing
from llmguard.providers.sandbox import Answer, Ask, Shelf, respond


@dataclass(frozen=True, slots=True)
class SandboxFaults:
    """What goes wrong besides what a model's name asks for.

    ``latency_ms`` before every head, ``chunk_interval_ms`` between the pieces of every stream. Of all prompts the share
    ``error_rate`` (0 to 1), evenly spaced, is answered with ``error_status``.
    """

    latency_ms: int = 0
    chunk_interval_ms: int = 0
    error_rate: float = 0.0
    error_status: int = 503


def random_id(prefix: str) -> str:
    """A fresh id such as providers make them."""
    return prefix + uuid.uuid4().hex


class SandboxCore:
    """What both engines of the sandbox share: answers, faults, and stored objects that live as long as the engine."""

    def __init__(self, faults: SandboxFaults | None = None, *, new_id: Callable[[str], str] = random_id) -> None:
        self.faults = faults or SandboxFaults()
        self._new_id = new_id
        self._shelf = Shelf()
        self._errors_owed = 0.0

    def answer(self, request: Outgoing) -> Answer:
        """The answer to a request, a fault that is due included."""
        path, _, query = request.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers}
        fail = self._next_error() if request.method == "POST" else None
        now = int(time.time())
        return respond(Ask(request.method, path, query, headers, request.body, self._new_id, now, self._shelf, fail))

    def latency_ms(self, answer: Answer) -> int:
        """How long its head takes."""
        return self.faults.latency_ms + answer.behaviour.latency_ms

    def interval_ms(self, answer: Answer) -> int:
        """How long each of its pieces after the first takes."""
        return self.faults.chunk_interval_ms + answer.behaviour.interval_ms if answer.streams else 0

    def _next_error(self) -> int | None:
        self._errors_owed += self.faults.error_rate
        if self._errors_owed < 1:
            return None
        self._errors_owed -= 1
        return self.faults.error_status


def pieces_of(answer: Answer) -> list[bytes]:
    """What is sent of an answer's pieces: of a truncated one, up to the middle of its middle piece."""
    if not answer.behaviour.truncate:
        return answer.pieces
    middle = len(answer.pieces) // 2
    half = answer.pieces[middle][: len(answer.pieces[middle]) // 2]
    return [*answer.pieces[:middle], half] if half else answer.pieces[:middle]


class SandboxEngine(SandboxCore):
    """Answers requests itself.

    ``read_timeout`` is the seconds after which a model that never answers counts as timed out.
    """

    def __init__(
        self,
        faults: SandboxFaults | None = None,
        *,
        read_timeout: float = 600.0,
        new_id: Callable[[str], str] = random_id,
    ) -> None:
        super().__init__(faults, new_id=new_id)
        self._read_timeout = read_timeout
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    async def send(self, request: Outgoing) -> SandboxReply:
        """See :class:`llmguard.forward.engine.Engine`."""
        if self._closed:
            raise UpstreamError("the sandbox is closed", sent=False)
        request.before_send()
        answer = self.answer(request)
        await self.pause(self.latency_ms(answer))
        if answer.behaviour.hang:
            await self.pause(self._read_timeout * 1000)
            raise UpstreamError("the sandbox did not answer in time", sent=True, status=504)
        reply = SandboxReply(self, answer, self.interval_ms(answer))
        if request.hold_up_to and sum(map(len, answer.pieces)) <= request.hold_up_to:
            reply.body = await reply.read()
        return reply

    async def aclose(self) -> None:
        """Refuse new requests and break off the running ones."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(UpstreamError("the sandbox was closed", sent=True))

    async def pause(self, milliseconds: float) -> None:
        """Wait, unless the engine is closed meanwhile."""
        if self._closed:
            raise UpstreamError("the sandbox was closed", sent=True)
        if milliseconds <= 0:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(milliseconds / 1000, _wake, waiter)
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.discard(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class SandboxReply:
    """See :class:`llmguard.forward.engine.Incoming`. A truncated reply stops in the middle of its middle piece."""

    def __init__(self, engine: SandboxEngine, answer: Answer, interval_ms: int) -> None:
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.body: bytes | None = None
        self._engine = engine
        self._pieces = pieces_of(answer)
        self._torn = answer.behaviour.truncate
        self._interval_ms = interval_ms
        self._at = 0

    async def next(self) -> bytes:
        if self._at == len(self._pieces):
            if self._torn:
                raise UpstreamError("the sandbox broke off its reply", sent=True)
            return b""
        await self._engine.pause(self._interval_ms if self._at else 0)
        piece = self._pieces[self._at]
        self._at += 1
        return piece

    async def read(self) -> bytes:
        """The rest of the body in one piece."""
        pieces = []
        while piece := await self.next():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._at, self._torn = len(self._pieces), False
