"""The caller behind a request, for the application inside the layers: its body once, and whether it is still there."""

from __future__ import annotations

import asyncio

from llmguard.forward.relay import DRAIN_SECONDS
from llmguard.proxy.callers import Caller
from llmguard.runtime.lifespan import Message, Receive


class Listener(Caller):
    """One request in progress, and the only reader of its ``receive``.

    ``drains``: when the caller hangs up, the application goes on for half a minute, ``muted``, so that the provider's
    own usage is charged. ``gone`` may also be `cut`.
    """

    __slots__ = ("_body", "_end", "_ended", "drains", "muted")

    def __init__(self, receive: Receive, deadline: float) -> None:
        super().__init__(receive, deadline)
        self.drains = False
        self.muted = False
        self._body: bytes | None = None
        self._ended = False
        self._end: asyncio.Event | None = None

    def give(self, body: bytes) -> Receive:
        """The ``receive`` of the application inside: this body, and then the end of the exchange by either side."""
        self._body = body
        return self._receive_inside

    def over(self) -> None:
        """The reply is complete, or there will be none."""
        self._ended = True
        if self._end is not None:
            self._end.set()

    def cancel(self, why: str) -> None:
        """Stop the request, or let it go on unheard. Servers also speak of a hang-up after every reply."""
        if why == "hung_up" and self._ended:
            return
        if why == "hung_up" and self.drains:
            self.muted = True
            self.extend(DRAIN_SECONDS)
        else:
            super().cancel(why)

    def stop(self) -> None:
        """Stop a request whose caller is gone."""
        super().cancel("hung_up")

    def leave(self) -> None:
        """The request is over."""
        super().leave()
        self.over()

    async def _receive_inside(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._ended:
            self.watch()
            self._end = self._end or asyncio.Event()
            await self._end.wait()
        return {"type": "http.disconnect"}
