"""One call between caller and provider: decide, forward, read along, record, and only then hand over the last byte."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set

from msgspec import Struct

from llmguard.core.call import Call
from llmguard.core.decision import Admit, Refuse, Replay
from llmguard.core.edge import returning_headers
from llmguard.core.exchange import Ending, Exchange, Pipeline, Stage
from llmguard.core.money import usd_string
from llmguard.core.ports import Dialect
from llmguard.errors import UpstreamError
from llmguard.forward.engine import Headers, Incoming
from llmguard.forward.large import LargeReply
from llmguard.forward.upstreams import HOLD_UP_TO, Upstream
from llmguard.runtime.aio import AsyncRuntime

log = logging.getLogger("llmguard.relay")

Mask = Callable[..., bytes]
DRAIN_SECONDS = 30.0


class Reply(Struct, eq=False):
    """What goes back to the caller: ``body``, or ``chunks`` to be sent as they come.

    With ``chunks``, ``release`` must be called when the caller has all or is gone: it frees the provider's connection
    and records the call, also where not one chunk was asked for.
    """

    status: int
    headers: Headers
    body: bytes | None
    chunks: AsyncGenerator[bytes] | None = None
    release: Callable[[], None] = lambda: None


class Relay:
    """Runs calls with one set of stages.

    When a caller hangs up on a stream, the provider's connection is closed; of the providers in ``drains`` the rest is
    read for half a minute, so that the call is charged by the provider's own usage.
    """

    def __init__(
        self,
        runtime: AsyncRuntime,
        stages: Sequence[Stage],
        upstreams: Mapping[str, Upstream],
        mask: Mask,
        drains: Set[str] = frozenset(),
    ) -> None:
        self._drains = drains
        self._draining: set[asyncio.Task[None]] = set()
        self._runtime = runtime
        self._stages = Pipeline(stages)
        self._authn = Pipeline(stages[:1])
        self._upstreams = upstreams
        self._mask = mask

    async def __call__(self, call: Call, dialect: Dialect, secret: str | None, event_id: str) -> Reply:
        """Answer one call. Whatever is raised, the call has been closed and recorded."""
        runtime = self._runtime
        x = Exchange(
            call,
            dialect,
            self._stages,
            event_id=event_id,
            secret=secret,
            now=runtime.now(),
        )
        runtime.enter(x)
        try:
            decision = await runtime.run(x.open(x.now))
            if isinstance(decision, Refuse):
                runtime.close(x, Ending.DONE)
                return refused(dialect, decision, event_id)
            if isinstance(decision, Replay):
                runtime.close(x, Ending.DONE)
                return _replayed(decision)
            return await self._forward(x, decision)
        except BaseException:
            runtime.close(x, Ending.CALLER_GONE)
            raise

    async def verify(self, call: Call, dialect: Dialect, secret: str | None, event_id: str) -> Refuse | None:
        """Check the caller's key only, for what the guard answers itself."""
        now = self._runtime.now()
        x = Exchange(call, dialect, self._authn, event_id=event_id, secret=secret, now=now)
        decision = await self._runtime.run(x.open(now))
        return decision if isinstance(decision, Refuse) else None

    async def _forward(self, x: Exchange, admit: Admit) -> Reply:
        call, runtime = x.call, self._runtime
        upstream = self._upstreams[admit.target.provider]
        body = x.dialect.rewrite(call, admit.edits) if admit.edits else call.body
        tenant = f"{x.who.org}/{x.who.team}"

        def before_send() -> None:
            runtime.perform(x.dispatch())

        try:
            incoming = await upstream.engine.send(upstream.outgoing(call, admit.target, body, before_send, tenant))
        except UpstreamError as error:
            return self._failed(x, error)
        try:
            x.answer(incoming.status, runtime.now())
            if x.tape is not None:
                x.tape.content_type = kept_type(incoming.headers)
            if incoming.body is None and comes_whole(call, incoming.status, incoming.headers):
                await _collect(incoming)
            return self._reply(x, incoming, upstream)
        except UpstreamError as error:
            incoming.close()
            return self._failed(x, error)
        except BaseException:
            incoming.close()
            raise

    def _reply(self, x: Exchange, incoming: Incoming, upstream: Upstream) -> Reply:
        call, runtime = x.call, self._runtime
        headers = reply_head(x, incoming.headers)
        if incoming.body is not None:
            return self._whole(x, incoming, headers, upstream)
        streams = call.stream or content_type(incoming.headers).startswith("text/event-stream")
        chunks = self._stream(x, incoming) if streams else self._large(x, incoming)

        def release() -> None:
            if streams and x.target.provider in self._drains and x.event_id in runtime.live:
                self._drain(x, incoming)
            else:
                incoming.close()
                runtime.close(x, Ending.CALLER_GONE)

        return Reply(incoming.status, headers, None, chunks, release)

    def _failed(self, x: Exchange, error: UpstreamError) -> Reply:
        self._runtime.close(x, Ending.UPSTREAM_FAILED)
        return refused(x.dialect, failure(x, error), x.event_id)

    def _whole(self, x: Exchange, incoming: Incoming, headers: Headers, upstream: Upstream) -> Reply:
        body = incoming.body
        assert body is not None
        x.whole(content_type(incoming.headers), body, self._runtime.now())
        self._runtime.close(x, Ending.DONE)
        if incoming.status >= 400:
            body = self._mask(body, *upstream.secrets)
        assert x.cost is not None
        headers.append((b"x-llmguard-cost-usd", usd_string(x.cost.total).encode()))
        return Reply(incoming.status, headers, body)

    async def _stream(self, x: Exchange, incoming: Incoming) -> AsyncGenerator[bytes]:
        runtime, reader = self._runtime, x.reader
        assert reader is not None
        try:
            while data := await incoming.next():
                out = x.feed(data, runtime.now())
                if x.due and (refusal := await runtime.run(x.attend())) is not None:
                    incoming.close()
                    runtime.close(x, Ending.BUDGET_CUT)
                    yield out + reader.cut(refusal, x.event_id)
                    return
                if reader.finished:
                    runtime.close(x, Ending.DONE)
                    out += reader.flush()
                if out:
                    yield out
            runtime.close(x, Ending.DONE)
            if tail := reader.flush():
                yield tail
        except UpstreamError as error:
            log.warning("%s: stream of %s broke off: %s", x.target.provider, x.event_id, error)
            runtime.close(x, Ending.UPSTREAM_FAILED)
            raise

    def _drain(self, x: Exchange, incoming: Incoming) -> None:
        task = asyncio.get_running_loop().create_task(self._read_on(x, incoming))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _read_on(self, x: Exchange, incoming: Incoming) -> None:
        runtime, reader = self._runtime, x.reader
        assert reader is not None
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not reader.finished and (data := await incoming.next()):
                    x.feed(data, runtime.now())
        except (TimeoutError, UpstreamError) as error:
            log.info("%s: gave up reading on for usage: %s", x.event_id, error or "time is up")
        finally:
            incoming.close()
            runtime.close(x, Ending.CALLER_GONE)

    async def _large(self, x: Exchange, incoming: Incoming) -> AsyncGenerator[bytes]:
        """A whole reply too large to hold flows on, one chunk behind, so that its record is written before its end."""
        runtime, seen = self._runtime, LargeReply()
        behind = b""
        try:
            while data := await incoming.next():
                seen.feed(data)
                if behind:
                    yield behind
                behind = data
            seen.end(x, content_type(incoming.headers), runtime.now())
            runtime.close(x, Ending.DONE)
            yield behind
        except UpstreamError:
            runtime.close(x, Ending.UPSTREAM_FAILED)
            raise


def content_type(headers: Headers) -> str:
    """The reply's media type, lower case, with parameters; empty without one."""
    for name, value in headers:
        if name == b"content-type":
            return value.decode("latin-1").lower()
    return ""


def kept_type(headers: Headers) -> str | None:
    """The media type of a reply that may be kept; None for one in an encoding that not every caller reads."""
    return None if any(name == b"content-encoding" for name, _ in headers) else content_type(headers)


def _replayed(replay: Replay) -> Reply:
    if len(replay.chunks) == 1:
        return Reply(replay.status, replay.headers, replay.chunks[0])
    return Reply(replay.status, replay.headers, None, _each(replay.chunks))


async def _each(chunks: list[bytes]) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


def comes_whole(call: Call, status: int, headers: Headers) -> bool:
    """An error, or JSON where a stream was asked for (Gemini streams as a JSON array): small, and read in one piece."""
    if status >= 400:
        return True
    return call.stream and call.family != "gemini" and content_type(headers).startswith("application/json")


def reply_head(x: Exchange, headers: Headers) -> Headers:
    """What goes back of a provider's ``headers``, and what the guard has to say itself."""
    head = returning_headers(headers)
    head.append((b"x-llmguard-request-id", x.event_id.encode()))
    head.append((b"x-llmguard-target", f"{x.target.provider}/{x.target.model}".encode("latin-1", "replace")))
    head.extend(x.headers)
    return head


def failure(x: Exchange, error: UpstreamError) -> Refuse:
    """What the caller hears when the provider could not be reached or broke the protocol; after the call was closed."""
    code = {503: "upstream_busy", 504: "upstream_timeout"}.get(error.status, "upstream_unreachable")
    words = f"{x.target.provider}: {error}"
    return Refuse(code, error.status, words, retry_after=None if x.cost else 1)


async def _collect(incoming: Incoming) -> None:
    """Read the rest into ``incoming.body``."""
    parts, size = [], 0
    while data := await incoming.next():
        parts.append(data)
        size += len(data)
        if size > HOLD_UP_TO * 4:
            raise UpstreamError("an error reply of more than 1 MiB", sent=True)
    incoming.body = b"".join(parts)


def refused(dialect: Dialect, refuse: Refuse, event_id: str) -> Reply:
    """A refusal in the dialect's own shape, with the headers that keep SDKs from repeating it in vain."""
    headers: Headers = [(b"content-type", b"application/json"), (b"x-llmguard-request-id", event_id.encode())]
    if refuse.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refuse.retry_after))
    if refuse.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if refuse.should_retry else b"false"))
    return Reply(refuse.status, headers, dialect.refusal(refuse, event_id))
