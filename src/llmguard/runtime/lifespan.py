"""The life of a guard in an ASGI server: from before the first request to after the last one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from llmguard.errors import LLMGuardError
from llmguard.runtime.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Message, Receive, Send], Awaitable[None]]

_LAST = ("lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed")


class Living(Protocol):
    """What has a life of its own: :class:`llmguard.guard.Guard`."""

    async def service(self) -> Service:
        """Start."""
        ...

    async def aclose(self) -> None:
        """Wait for open calls, and put everything on record."""
        ...


class Lifespan:
    """An ASGI application whose guard starts before it and ends after it. ``guard`` is asked when the server starts.

    At the end the guard waits some seconds for open calls: a server that stops while streams are running cancels them
    first, and their records must not be left to the next process. An application that knows nothing of lifespans, as
    Django's, may be wrapped as well.
    """

    def __init__(self, app: ASGI, guard: Callable[[], Living]) -> None:
        self.app = app
        self._guard_of = guard

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        guard, startup = self._guard_of(), await receive()
        try:
            await guard.service()
        except LLMGuardError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        talk = _Talk(startup, receive, send)
        try:
            await self.app(scope, talk.receive, talk.send)
        except Exception:
            if talk.answered:
                raise
        finally:
            if talk.answered:
                await guard.aclose()
                await talk.finish()
        if not talk.answered:  # the application has no lifespan
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await guard.aclose()
            await send({"type": "lifespan.shutdown.complete"})


class _Talk:
    """What server and application tell each other; the application's last word is kept back."""

    def __init__(self, startup: Message, receive: Receive, send: Send) -> None:
        self.answered = False
        self._startup: Message | None = startup
        self._receive = receive
        self._send = send
        self._last: Message | None = None

    async def receive(self) -> Message:
        if self._startup is not None:
            startup, self._startup = self._startup, None
            return startup
        return await self._receive()

    async def send(self, message: Message) -> None:
        self.answered = True
        if message["type"] in _LAST:
            self._last = message
        else:
            await self._send(message)

    async def finish(self) -> None:
        if self._last is not None:
            await self._send(self._last)
