"""One call between caller and provider for threads: the twin of :mod:`llmguard.forward.relay`, step by step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from llmguard.core.call import Call
from llmguard.core.decision import Admit, Refuse, Replay
from llmguard.core.effects import Effect, Steps
from llmguard.core.exchange import Ending, Exchange, Pipeline, Stage
from llmguard.core.money import usd_string
from llmguard.core.ports import Dialect
from llmguard.errors import UpstreamError
from llmguard.forward.blocking.engine import Caller, CallerGone, Engine, Incoming
from llmguard.forward.engine import Headers
from llmguard.forward.large import LargeReply
from llmguard.forward.relay import (
    DRAIN_SECONDS,
    Mask,
    Reply,
    comes_whole,
    content_type,
    failure,
    kept_type,
    refused,
    reply_head,
)
from llmguard.forward.upstreams import HOLD_UP_TO, Upstream

log = logging.getLogger("llmguard.relay")

T = TypeVar("T")


class Runtime(Protocol):
    """What runs core code here (:class:`llmguard.runtime.process.ProcessService`)."""

    live: dict[str, Exchange]

    def now(self) -> int: ...
    def run(self, steps: Steps[T]) -> T: ...
    def perform(self, effect: Effect) -> Any: ...
    def enter(self, x: Exchange) -> None: ...
    def close(self, x: Exchange, ending: Ending) -> None: ...


@dataclass(slots=True, eq=False)
class BlockingReply:
    """What goes back to the caller: ``body``, or ``chunks`` to be sent as they come.

    With ``chunks``, ``release`` must be called when the caller has all or is gone: it frees the provider's connection
    and records the call, also where not one chunk was asked for.
    """

    status: int
    headers: Headers
    body: bytes | None
    chunks: Generator[bytes, None, None] | None = None
    release: Callable[[], None] = lambda: None


class BlockingRelay:
    """Runs calls with one set of stages, in the thread that asks.

    When a caller hangs up on a stream, the provider's connection is closed; of the providers in ``drains`` the rest is
    read by another thread for half a minute, so that the call is charged by the provider's own usage.
    """

    def __init__(
        self,
        runtime: Runtime,
        stages: Sequence[Stage],
        upstreams: Mapping[str, Upstream],
        engines: Mapping[str, Engine],
        mask: Mask,
        drains: Set[str] = frozenset(),
    ) -> None:
        self._runtime = runtime
        self._stages = Pipeline(stages)
        self._authn = Pipeline(stages[:1])
        self._upstreams = upstreams
        self._engines = engines
        self._mask = mask
        self._drains = drains

    def __call__(
        self, call: Call, dialect: Dialect, secret: str | None, event_id: str, caller: Caller | None = None
    ) -> BlockingReply:
        """Answer one call. Whatever is raised, the call has been closed and recorded; CallerGone among others.

        ``caller`` is the connection to watch while the provider is waited for.
        """
        runtime = self._runtime
        x = Exchange(call, dialect, self._stages, event_id=event_id, secret=secret, now=runtime.now())
        runtime.enter(x)
        try:
            decision = runtime.run(x.open(x.now))
            if isinstance(decision, Refuse):
                runtime.close(x, Ending.DONE)
                return _plain(refused(dialect, decision, event_id))
            if isinstance(decision, Replay):
                runtime.close(x, Ending.DONE)
                return _replayed(decision)
            return self._forward(x, decision, caller)
        except BaseException:
            runtime.close(x, Ending.CALLER_GONE)
            raise

    def verify(self, call: Call, dialect: Dialect, secret: str | None, event_id: str) -> Refuse | None:
        """Check the caller's key only, for what the guard answers itself."""
        now = self._runtime.now()
        x = Exchange(call, dialect, self._authn, event_id=event_id, secret=secret, now=now)
        decision = self._runtime.run(x.open(now))
        return decision if isinstance(decision, Refuse) else None

    def _forward(self, x: Exchange, admit: Admit, caller: Caller | None) -> BlockingReply:
        call, runtime = x.call, self._runtime
        upstream = self._upstreams[admit.target.provider]
        body = x.dialect.rewrite(call, admit.edits) if admit.edits else call.body
        tenant = f"{x.who.org}/{x.who.team}"

        def before_send() -> None:
            runtime.perform(x.dispatch())

        request = upstream.outgoing(call, admit.target, body, before_send, tenant)
        try:
            incoming = self._engines[admit.target.provider].send(request, caller)
        except UpstreamError as error:
            return self._failed(x, error)
        try:
            x.answer(incoming.status, runtime.now())
            if x.tape is not None:
                x.tape.content_type = kept_type(incoming.headers)
            if incoming.body is None and comes_whole(call, incoming.status, incoming.headers):
                _collect(incoming)
            return self._reply(x, incoming, upstream)
        except UpstreamError as error:
            incoming.close()
            return self._failed(x, error)
        except BaseException:
            incoming.close()
            raise

    def _reply(self, x: Exchange, incoming: Incoming, upstream: Upstream) -> BlockingReply:
        runtime = self._runtime
        headers = reply_head(x, incoming.headers)
        if incoming.body is not None:
            return self._whole(x, incoming, headers, upstream)
        streams = x.call.stream or content_type(incoming.headers).startswith("text/event-stream")
        chunks = self._stream(x, incoming) if streams else self._large(x, incoming)

        def release() -> None:
            if streams and x.target.provider in self._drains and x.event_id in runtime.live:
                threading.Thread(target=self._read_on, args=(x, incoming), daemon=True).start()
            else:
                incoming.close()
                runtime.close(x, Ending.CALLER_GONE)

        return BlockingReply(incoming.status, headers, None, chunks, release)

    def _failed(self, x: Exchange, error: UpstreamError) -> BlockingReply:
        self._runtime.close(x, Ending.UPSTREAM_FAILED)
        return _plain(refused(x.dialect, failure(x, error), x.event_id))

    def _whole(self, x: Exchange, incoming: Incoming, headers: Headers, upstream: Upstream) -> BlockingReply:
        body = incoming.body
        assert body is not None
        incoming.close()
        x.whole(content_type(incoming.headers), body, self._runtime.now())
        self._runtime.close(x, Ending.DONE)
        if incoming.status >= 400:
            body = self._mask(body, *upstream.secrets)
        assert x.cost is not None
        headers.append((b"x-llmguard-cost-usd", usd_string(x.cost.total).encode()))
        return BlockingReply(incoming.status, headers, body)

    def _stream(self, x: Exchange, incoming: Incoming) -> Generator[bytes, None, None]:
        runtime, reader = self._runtime, x.reader
        assert reader is not None
        try:
            while data := incoming.next():
                out = x.feed(data, runtime.now())
                if x.due and (refusal := runtime.run(x.attend())) is not None:
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

    def _read_on(self, x: Exchange, incoming: Incoming) -> None:
        runtime, reader = self._runtime, x.reader
        assert reader is not None
        end = runtime.now() + int(DRAIN_SECONDS * 1000)
        try:
            while not reader.finished and runtime.now() < end and (data := incoming.next()):
                x.feed(data, runtime.now())
        except (UpstreamError, CallerGone) as error:
            log.info("%s: gave up reading on for usage: %s", x.event_id, error)
        finally:
            incoming.close()
            runtime.close(x, Ending.CALLER_GONE)

    def _large(self, x: Exchange, incoming: Incoming) -> Generator[bytes, None, None]:
        """A whole reply too large to hold flows on, one chunk behind, so that its record is written before its end."""
        runtime, seen = self._runtime, LargeReply()
        behind = b""
        try:
            while data := incoming.next():
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


def _replayed(replay: Replay) -> BlockingReply:
    if len(replay.chunks) == 1:
        return BlockingReply(replay.status, replay.headers, replay.chunks[0])
    return BlockingReply(replay.status, replay.headers, None, _each(replay.chunks))


def _each(chunks: list[bytes]) -> Generator[bytes, None, None]:
    yield from chunks


def _plain(reply: Reply) -> BlockingReply:
    return BlockingReply(reply.status, reply.headers, reply.body)


def _collect(incoming: Incoming) -> None:
    """Read the rest into ``incoming.body``."""
    parts, size = [], 0
    while data := incoming.next():
        parts.append(data)
        size += len(data)
        if size > HOLD_UP_TO * 4:
            raise UpstreamError("an error reply of more than 1 MiB", sent=True)
    incoming.body = b"".join(parts)
