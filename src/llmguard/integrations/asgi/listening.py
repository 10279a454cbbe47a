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

    __slots__ = ("_body", "_over", "drains", "muted")

    def __init__(self, receive: Receive, deadline: float) -> None:
        super().__init__(receive, deadline)
        self.drains = False
        self.muted = False
        self._body: bytes | None = None
        self._over = asyncio.Event()

    def give(self, body: bytes) -> Receive:
        """The ``receive`` of the application inside: this body, and then the end of the exchange by either side."""
        self._body = body
        return self._receive_inside

    def over(self) -> None:
        """The reply is complete."""
        self._over.set()

    def cancel(self, why: str) -> None:
        """Stop the request, or let it go on unheard."""
        if why == "hung_up" and self.drains and not self._over.is_set():
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
        self._over.set()

    async def _receive_inside(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        self.watch()
        await self._over.wait()
        return {"type": "http.disconnect"}
