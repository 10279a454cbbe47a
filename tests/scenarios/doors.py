"""The doors: where calls come in, and how a caller there makes them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2

from llmguard.guard import Guard
from llmguard.integrations.httpx import async_http_client, http_client
from tests.scenarios.calls import Call, Heard, Kind
from tests.scenarios.provider import Provider, Whose

PATIENCE = 2.0
"""Seconds that the guard waits for a silent provider, and that applications and clients wait where they do it."""
_LONG = 30.0


@dataclass(frozen=True)
class Server:
    """A process: the kind of server, the application, and the path that answers 200 once its guard is ready."""

    kind: str
    application: str
    probe: str = "/llm/readyz"


SERVERS: Mapping[str, Server] = {
    "proxy": Server("llmguard", ""),
    "asgi": Server("uvicorn", "tests.scenarios.served:application", "/a/readyz"),
    "django-asgi": Server("uvicorn", "tests.support.django_served:asgi"),
    "django-wsgi": Server("gunicorn-gthread", "tests.support.django_served:wsgi"),
    "flask-sync": Server("gunicorn-sync", "tests.scenarios.served_wsgi:application"),
    "flask-gthread": Server("gunicorn-gthread", "tests.scenarios.served_wsgi:application"),
    "flask-gevent": Server("gunicorn-gevent", "tests.scenarios.served_wsgi:application"),
}


@dataclass(frozen=True)
class Door:
    """``server`` and ``prefix`` say where a door of a process is, ``module`` and ``awaited`` which client is one.

    ``second`` is the prefix of the same door of another guard in the same process. ``alone``: its server takes one call
    at a time.
    """

    name: str
    title: str
    kind: Kind = "gateway"
    server: str = ""
    prefix: str = ""
    second: str | None = None
    alone: bool = False
    module: str = ""
    awaited: bool = False


DOORS: tuple[Door, ...] = (
    Door("proxy", "the proxy, `llmguard serve`", server="proxy"),
    Door("fastapi", "mounted in FastAPI, uvicorn", server="asgi", prefix="/fastapi/llm", second="/second/fastapi/llm"),
    Door("starlette-a", "mounted in Starlette, uvicorn", server="asgi", prefix="/a", second="/second/a"),
    Door(
        "starlette-b",
        "the same below a second prefix, `/deep/b é`",
        server="asgi",
        prefix="/deep/b%20%C3%A9",
        second="/second/deep/b%20%C3%A9",
    ),
    Door("django-asgi", "Django, uvicorn", server="django-asgi", prefix="/llm"),
    Door("django-wsgi", "Django, gunicorn gthread", server="django-wsgi", prefix="/llm"),
    Door("flask-sync", "Flask, gunicorn sync", server="flask-sync", prefix="/llm", second="/second/llm", alone=True),
    Door(
        "flask-gthread",
        "Flask, gunicorn gthread",
        server="flask-gthread",
        prefix="/llm",
        second="/second/llm",
    ),
    Door("flask-gevent", "Flask, gunicorn gevent", server="flask-gevent", prefix="/llm", second="/second/llm"),
    *(
        Door(
            f"layers-{number}",
            f"five ASGI layers, order {number}, with GZip, CORS and BaseHTTPMiddleware between",
            kind="layers",
            server="asgi",
            prefix=f"/order{number}",
            second=f"/second/order{number}",
        )
        for number in (1, 2, 3)
    ),
    Door(
        "layers-wsgi",
        "five WSGI layers, gunicorn gthread",
        kind="layers",
        server="flask-gthread",
        prefix="/layers",
        second="/second/layers",
    ),
    Door("httpx2", "a guarded client of httpx2", kind="inside", module="httpx2"),
    Door("httpx2-async", "an asynchronous one of httpx2", kind="inside", module="httpx2", awaited=True),
    Door("httpx", "a guarded client of httpx", kind="inside", module="httpx"),
    Door("httpx-async", "an asynchronous one of httpx", kind="inside", module="httpx", awaited=True),
)


@dataclass(frozen=True)
class Caller(ABC):
    """Somebody at a door, in a scenario."""

    whose: Whose
    provider: Provider

    @abstractmethod
    def ask(self, call: Call) -> list[Heard]:
        """What is heard, that of the call made meanwhile first."""

    def content(self, call: Call) -> bytes:
        return call.content(self.provider.mark(self.whose))

    def sent(self, before: int) -> None:
        """Wait until the provider has one call more than ``before``."""
        self.provider.wait_for(lambda p: len(self.provider.seen[self.whose]) > before, _LONG)


@dataclass(frozen=True)
class SocketCaller(Caller):
    """Over the network. ``origin`` and ``second`` are the doors of the two guards, ``keys`` the keys by name."""

    client: httpx2.Client
    origin: str
    second: str
    keys: Mapping[str, str]

    def ask(self, call: Call) -> list[Heard]:
        if call.leaves is not None:
            self._hang_up(call, call.leaves)
            return [Heard()]
        meanwhile: list[Heard] = []
        url, headers = self._url(call), self._headers(call)
        with self.client.stream(call.method, url, content=self.content(call), headers=headers, timeout=_LONG) as reply:
            body = b""
            try:
                for piece in reply.iter_bytes():
                    body += piece
                    if call.meanwhile and not meanwhile:
                        meanwhile += self.ask(call.meanwhile)
            except httpx2.RemoteProtocolError as error:
                return [*meanwhile, Heard(reply.status_code, dict(reply.headers), body, type(error).__name__)]
            return [*meanwhile, Heard(reply.status_code, dict(reply.headers), body)]

    def _url(self, call: Call) -> str:
        return (self.second if call.second_guard else self.origin) + call.path

    def _headers(self, call: Call) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity", **call.headers}
        if call.key != "none":
            headers["authorization"] = f"Bearer {self.keys['second' if call.second_guard else call.key]}"
        return headers

    def _hang_up(self, call: Call, heard: bytes) -> None:
        """A connection that is closed in the midst: without a good-bye, as when a process ends."""
        url, before = httpx2.URL(self._url(call)), len(self.provider.seen[self.whose])
        body = self.content(call)
        fields = {"host": "test", **self._headers(call), "content-length": str(len(body))}
        head = f"{call.method} {url.raw_path.decode()} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        with socket.create_connection(("127.0.0.1", url.port or 80), 10) as line:
            line.sendall(head.encode() + body)
            got = b""
            while heard not in got:
                piece = line.recv(65536)
                assert piece, got
                got += piece
            self.sent(before)


@dataclass(frozen=True)
class InsideCaller(Caller):
    """Within the process: a client whose transport is the guard."""

    door: Door
    guard: Guard
    second: Guard

    @property
    def _module(self) -> Any:
        return {"httpx": httpx, "httpx2": httpx2}[self.door.module]

    def _client(self, make: Callable[..., Any], call: Call) -> Any:
        team, env = self.whose
        guard = self.second if call.second_guard else self.guard
        team = team if call.key == "own" else "other"
        return make(
            team=team, env=env, feature="chat", guard=guard, module=self.door.module, verify=False, timeout=PATIENCE
        )

    def _request(self, client: Any, call: Call) -> Any:
        headers = {"content-type": "application/json", "authorization": "Bearer own", **call.headers}
        url = self.provider.origin + call.path
        return client.build_request(call.method, url, content=self.content(call), headers=headers)

    def ask(self, call: Call) -> list[Heard]:
        if self.door.awaited:
            return asyncio.run(self._awaited(call))
        with self._client(http_client, call) as client:
            meanwhile: list[Heard] = []
            body = b""
            try:
                reply = client.send(self._request(client, call), stream=True)
            except self._module.TransportError as error:
                return [Heard(raised=type(error).__name__)]
            try:
                for piece in reply.iter_bytes():
                    body += piece
                    if call.leaves and call.leaves in body:
                        return [Heard()]
                    if call.meanwhile and not meanwhile:
                        meanwhile += self.ask(call.meanwhile)
            except self._module.TransportError as error:
                return [*meanwhile, Heard(reply.status_code, dict(reply.headers), body, type(error).__name__)]
            finally:
                reply.close()
            return [*meanwhile, Heard(reply.status_code, dict(reply.headers), body)]

    async def _awaited(self, call: Call) -> list[Heard]:
        async with self._client(async_http_client, call) as client:
            if call.leaves is not None:
                await self._cancelled(client, call, call.leaves)
                return [Heard()]
            meanwhile: list[Heard] = []
            body = b""
            try:
                reply = await client.send(self._request(client, call), stream=True)
            except self._module.TransportError as error:
                return [Heard(raised=type(error).__name__)]
            try:
                async for piece in reply.aiter_bytes():
                    body += piece
                    if call.meanwhile and not meanwhile:
                        meanwhile += await self._awaited(call.meanwhile)
            except self._module.TransportError as error:
                return [*meanwhile, Heard(reply.status_code, dict(reply.headers), body, type(error).__name__)]
            finally:
                await reply.aclose()
            return [*meanwhile, Heard(reply.status_code, dict(reply.headers), body)]

    async def _cancelled(self, client: Any, call: Call, heard: bytes) -> None:
        """A task that is cancelled in the midst."""
        before, reached = len(self.provider.seen[self.whose]), asyncio.Event()

        async def read() -> None:
            async with contextlib.AsyncExitStack() as stack:
                reply = await client.send(self._request(client, call), stream=True)
                stack.push_async_callback(reply.aclose)
                body = b""
                async for piece in reply.aiter_bytes():
                    body += piece
                    if heard and heard in body:
                        reached.set()

        task = asyncio.create_task(read())
        if heard:
            await asyncio.wait_for(reached.wait(), _LONG)
        else:
            await asyncio.to_thread(self.sent, before)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
