"""The second upstream engine: httpx2's transport, for providers reached through an outbound proxy or by HTTP/2.

It costs some fifty times the CPU of :class:`llmguard.forward.pool.Pool`, so it is used only where a provider asks for
it. The transport is driven without a client around it: no redirects, cookies, credentials from files or proxies from
the environment. Unlike the pool, HTTP/2 gives each stream a window of 16 MiB, which is what a slow caller may leave
unread in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import h2.exceptions
import httpx2

from llmguard.errors import UpstreamError
from llmguard.forward.dns import AddressRefused, is_public, resolve
from llmguard.forward.engine import Engine, Headers, Outgoing
from llmguard.forward.http1 import RequestEncoder
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.reply import Reply
from llmguard.forward.tls import new_client_context

# What httpx2 and the libraries beneath it raise; h2's own errors and those of reading a status come through unmapped.
_FOREIGN_ERRORS = (httpx2.HTTPError, httpx2.StreamError, h2.exceptions.H2Error, OSError, ValueError)
_BREAKS = b"\r\n\0"


class Httpx2Engine(Engine):
    """Sends requests to one origin, through ``proxy`` (an http or https URL) and by HTTP/2 where told to.

    Through a proxy it is the proxy that resolves names, so only an address written in the configuration is checked.
    ``ssl_context`` must be this engine's own, because the protocols it offers are set here.
    """

    def __init__(
        self,
        origin: Origin,
        limits: PoolLimits | None = None,
        timeouts: Timeouts | None = None,
        ssl_context: ssl.SSLContext | None = None,
        *,
        proxy: str | None = None,
        http2: bool = False,
    ) -> None:
        limits = limits or PoolLimits()
        self.origin = origin
        self.timeouts = timeouts or Timeouts()
        self.proxied = proxy is not None
        self.transport = httpx2.AsyncHTTPTransport(
            verify=ssl_context or new_client_context(),
            trust_env=False,
            http2=http2,
            proxy=proxy,
            limits=httpx2.Limits(
                max_connections=limits.max_connections,
                max_keepalive_connections=limits.max_connections,
                keepalive_expiry=limits.keep_alive,
            ),
        )
        self._encoder = RequestEncoder(origin.authority)
        self._most_calls = limits.max_connections + limits.max_waiting
        self._exchanges: dict[asyncio.Task[None], _Exchange] = {}
        self._closed = False

    async def send(self, request: Outgoing) -> Reply:
        """See :meth:`Engine.send` and :meth:`Pool.send`; calls running and in line are bounded together."""
        self._encoder.head(request.method, request.target, request.headers, len(request.body))  # for its checks
        if self._closed or len(self._exchanges) >= self._most_calls:
            reason = "the engine is closed" if self._closed else "too many calls are under way"
            raise UpstreamError(f"{self.origin.authority}: {reason}", sent=False, status=503)
        exchange = _Exchange(self, request)
        task = exchange.start()
        self._exchanges[task] = exchange
        task.add_done_callback(self._exchanges.pop)
        try:
            await exchange.reply.ready()
        except BaseException:
            exchange.reply.close()
            raise
        return exchange.reply

    async def aclose(self) -> None:
        """Drop all connections; running calls fail. Idempotent."""
        self._closed = True
        running = list(self._exchanges.items())
        for _, exchange in running:
            exchange.reply.close()
        await asyncio.gather(*(task for task, _ in running), return_exceptions=True)
        await self.transport.aclose()


@dataclass(slots=True)
class _Head:
    status: int
    headers: Headers
    length: int | None
    event_stream: bool


class _Exchange:
    """One call, carried by one task, so that what httpx2 opens is closed where it was opened."""

    def __init__(self, engine: Httpx2Engine, request: Outgoing) -> None:
        self._engine = engine
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._sent = False
        self._refusal: Exception | None = None
        self._room = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self.reply = Reply(self._loop, self, request.hold_up_to)

    def start(self) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self._run())
        return self._task

    # For the reply.

    def resume(self) -> None:
        self._room.set()

    def drop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # The task.

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(None) as self._limit:
                await self._carry()
        except Exception as error:  # noqa: BLE001  all of it goes to the caller, who waits on the reply
            self.reply.fail(error if error is self._refusal else self._explain(error))

    def _explain(self, error: Exception) -> Exception:
        """A foreign error in the words of ours; any other is a mistake in this program and stays what it is."""
        status = 502
        if isinstance(error, httpx2.PoolTimeout):
            reason, status = "no connection became free in time", 503
        elif isinstance(error, TimeoutError | httpx2.TimeoutException):
            reason, status = "the provider took too long", 504
        elif isinstance(error, _FOREIGN_ERRORS):
            reason = str(error) or type(error).__name__
        else:
            return error
        fault = UpstreamError(f"{self._engine.origin.authority}: {reason}", sent=self._sent, status=status)
        fault.__cause__ = error
        return fault

    async def _carry(self) -> None:
        async with contextlib.aclosing(await self._respond()) as response:
            self.reply.open(_head(response))
            self._expect_within(self._engine.timeouts.silence)
            self.reply.wake()
            async for piece in response.aiter_raw():
                if piece:
                    await self._add(piece)
                self._expect_within(self._engine.timeouts.silence)
        self.reply.end()

    async def _add(self, piece: bytes) -> None:
        crowded = self.reply.add(piece)
        self.reply.wake()
        if crowded:
            self._expect_within(None)
            self._room.clear()
            await self._room.wait()

    async def _respond(self) -> httpx2.Response:
        """Send, trying the addresses in order as long as nothing was sent."""
        *others, last = await self._hosts()
        for host in others:
            try:
                return await self._engine.transport.handle_async_request(self._to(host))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._engine.transport.handle_async_request(self._to(last))

    async def _hosts(self) -> list[str]:
        """The hosts to connect to: addresses that were checked, or the name where a proxy resolves it."""
        origin = self._engine.origin
        if not self._engine.proxied:
            async with asyncio.timeout(self._engine.timeouts.connect):
                endpoints = await resolve(origin.host, origin.port, internal=origin.internal)
            return [address[0] for _, address in endpoints]
        with contextlib.suppress(ValueError):
            if not origin.internal and not is_public(ip_address(origin.host)):
                raise AddressRefused(f"{origin.host} is not a public address, nor is the provider `internal: true`")
        return [origin.host]

    def _to(self, host: str) -> httpx2.Request:
        origin, timeouts, request = self._engine.origin, self._engine.timeouts, self._request
        return httpx2.Request(
            request.method,
            httpx2.URL(scheme=origin.scheme, host=host, port=origin.port),
            headers=[(b"host", origin.authority.encode()), *request.headers],
            content=request.body,
            extensions={
                "target": request.target,
                "sni_hostname": origin.host,
                "trace": self._trace,
                "timeout": {"connect": timeouts.connect, "pool": timeouts.queue, "write": timeouts.write, "read": None},
            },
        )

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx2 is about to write a head: the moment to say so, once, unless it is a proxy's CONNECT."""
        if self._sent or not event.endswith(".send_request_headers.started") or info["request"].method == b"CONNECT":
            return
        try:
            self._request.before_send()
        except Exception as error:
            self._refusal = error
            raise
        self._sent = True
        self._expect_within(self._engine.timeouts.first_byte)

    def _expect_within(self, seconds: float | None) -> None:
        """Move the time limit: ``seconds`` from now, and never beyond the call's total."""
        assert self._limit is not None
        end = self._began + self._engine.timeouts.total
        self._limit.reschedule(end if seconds is None else min(end, self._loop.time() + seconds))


def _head(response: httpx2.Response) -> _Head:
    """Check and read a head: HTTP/2 fields come unchecked. Raises ValueError."""
    headers = [(name.lower(), value) for name, value in response.headers.raw]
    if any(len(part.translate(None, _BREAKS)) != len(part) for field in headers for part in field):
        raise ValueError("the provider's reply has a line break or NUL in a header field")
    if not 200 <= response.status_code <= 599:
        raise ValueError(f"the provider's reply has status {response.status_code}")
    fields = dict(headers)
    length = fields.get(b"content-length", b"")
    return _Head(
        response.status_code,
        headers,
        int(length) if length.isdigit() else None,
        fields.get(b"content-type", b"")[:17].lower() == b"text/event-stream",
    )
