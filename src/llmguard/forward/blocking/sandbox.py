"""The sandbox for threads: the twin of :class:`llmguard.forward.sandbox.SandboxEngine`."""

from __future__ import annotations

import time

from llmguard.errors import UpstreamError
from llmguard.forward.blocking.engine import Caller
from llmguard.forward.blocking.line import Watch
from llmguard.forward.engine import Headers, Outgoing
from llmguard.forward.sandbox import SandboxCore, pieces_of

_READ_TIMEOUT_MS = 600_000


class BlockingSandbox(SandboxCore):
    """Answers requests itself, in the thread that asks."""

    def send(self, request: Outgoing, caller: Caller | None) -> BlockingSandboxReply:
        """See :class:`llmguard.forward.blocking.engine.Engine`."""
        request.before_send()
        answer = self.answer(request)
        _pause(self.latency_ms(answer), caller)
        if answer.behaviour.hang:
            _pause(_READ_TIMEOUT_MS, caller)
            raise UpstreamError("the sandbox did not answer in time", sent=True, status=504)
        pieces, torn = pieces_of(answer), answer.behaviour.truncate
        reply = BlockingSandboxReply(answer.status, answer.headers, pieces, torn, self.interval_ms(answer), caller)
        if request.hold_up_to and sum(map(len, answer.pieces)) <= request.hold_up_to:
            reply.body = b"".join(iter(reply.next, b""))
        return reply

    def close(self) -> None:
        """Nothing to drop."""


class BlockingSandboxReply:
    """See :class:`llmguard.forward.blocking.engine.Incoming`."""

    def __init__(
        self, status: int, headers: Headers, pieces: list[bytes], torn: bool, interval_ms: int, caller: Caller | None
    ) -> None:
        self.status = status
        self.headers = headers
        self.body: bytes | None = None
        self._pieces = pieces
        self._torn = torn
        self._interval_ms = interval_ms
        self._caller = caller
        self._at = 0

    def next(self) -> bytes:
        """The next piece after its time."""
        if self._at == len(self._pieces):
            if self._torn:
                raise UpstreamError("the sandbox broke off its reply", sent=True)
            return b""
        _pause(self._interval_ms if self._at else 0, self._caller)
        self._at += 1
        return self._pieces[self._at - 1]

    def close(self) -> None:
        """Send no more."""
        self._at, self._torn = len(self._pieces), False


def _pause(milliseconds: float, caller: Caller | None) -> None:
    """Wait, unless the caller hangs up meanwhile."""
    end, watch = time.monotonic() + milliseconds / 1000, Watch(caller)
    while (left := end - time.monotonic()) > 0:
        watch.poll(left, {})
