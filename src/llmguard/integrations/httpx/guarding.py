"""A call to a provider: admitted, sent, and read along to its record."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from llmguard.core.call import Call, Caller
from llmguard.core.decision import Admit, Refuse, Replay
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import usd_string
from llmguard.core.ports import Dialect, Reader
from llmguard.errors import GuardUnavailable
from llmguard.forward.engine import Headers
from llmguard.forward.relay import kept_type, refused
from llmguard.forward.upstreams import HOLD_UP_TO
from llmguard.integrations.httpx import asking
from llmguard.integrations.httpx.backoff import OVERLOADED, Kind, retry_after
from llmguard.integrations.httpx.inside import Inside, hear
from llmguard.integrations.httpx.libraries import Library
from llmguard.integrations.httpx.running import EventTap, LargeTap, Running, Tap, describe
from llmguard.integrations.httpx.streams import guarded_body
from llmguard.integrations.httpx.waits import Collect, Collected, Flow, Forward, Run, Sleep
from llmguard.runtime.ids import now_ms, uuid7


class Guarded:
    """One call of a client. ``kind`` groups it with those that meet the same limits."""

    def __init__(self, library: Library, inside: Inside, request: Any, caller: Caller, kind: Kind) -> None:
        self._library = library
        self._inside = inside
        self._request = request
        self._caller = caller
        self._kind = kind

    def way(self, call: Call, dialect: Dialect, passage: asking.Passage) -> Flow[Any]:
        """From the call to the response that the client gets."""
        x, request = yield from self._admit(call, dialect, passage)
        if isinstance(request, Refuse):
            if request.should_retry is False:
                yield from hear(self._caller, request.message)
            return told(self._library, self._request, dialect, request, x.event_id)
        if isinstance(request, Replay):
            return _replayed(self._library, self._request, request)
        response = yield from self._forward(x, request)
        reader = x.answer(response.status_code, now_ms())
        if x.tape is not None:
            x.tape.content_type = kept_type(response.headers.raw)
        describe(response.headers, x)
        try:
            return (yield from self._read(x, response, reader))
        except Exception:
            self._inside.end(x, Ending.UPSTREAM_FAILED)
            raise
        except BaseException:
            self._inside.end(x, Ending.CALLER_GONE)
            raise

    # ------------------------------------------------------------------ before

    def _admit(
        self, call: Call, dialect: Dialect, passage: asking.Passage
    ) -> Flow[tuple[Exchange, Refuse | Replay | Any]]:
        """Ask the stages; again after a wait where that is of use. Comes back: why not, or the request to send."""
        inside = self._inside
        waited = inside.backoff.before(self._kind)
        if waited:
            yield Sleep(waited)
        while True:
            x = Exchange(call, dialect, inside.stages, event_id=uuid7(), secret=None, now=now_ms())
            x.caller = self._caller
            answer = yield from self._ask(x, passage)
            pause = inside.backoff.refused(self._kind, answer, waited) if isinstance(answer, Refuse) else None
            if pause is None:
                return x, answer
            yield Sleep(pause)
            waited += pause

    def _ask(self, x: Exchange, passage: asking.Passage) -> Flow[Any]:
        """What the stages say. The request of an admitted call is made, and the call marked as sent."""
        service = self._inside.service
        service.enter(x)
        try:
            decision = yield Run(service, x.open(x.now))
            if not isinstance(decision, Admit):
                service.close(x, Ending.DONE)
                return decision
            body = x.dialect.rewrite(x.call, x.edits) if x.edits else x.call.body
            request = asking.outgoing(self._library, self._request, x.call, body, passage)
            service.perform(x.dispatch())
            return request
        except GuardUnavailable as error:
            if x.sent:
                x.recall()
            service.close(x, Ending.CALLER_GONE)
            return Refuse("accounting_unavailable", 503, f"spend cannot be recorded now: {error}", retry_after=5)
        except BaseException:
            service.close(x, Ending.CALLER_GONE)
            raise

    # ------------------------------------------------------------------ the provider

    def _forward(self, x: Exchange, request: Any) -> Flow[Any]:
        """Send. Whatever goes wrong once a byte may have left is ambiguous, hence charged by estimate."""
        try:
            return (yield Forward(request))
        except self._library.unsent:
            x.recall()
            self._inside.end(x, Ending.UPSTREAM_FAILED)
            raise
        except self._library.module.HTTPStatusError as error:  # an event hook of the client's has looked at the reply
            x.answer(error.response.status_code, now_ms())
            self._inside.end(x, Ending.DONE)
            raise
        except Exception:
            self._inside.end(x, Ending.UPSTREAM_FAILED)
            raise
        except BaseException:
            self._inside.end(x, Ending.CALLER_GONE)
            raise

    def _read(self, x: Exchange, response: Any, reader: Reader) -> Flow[Any]:
        """Meter the reply: at once where it is small, whole and not a stream, else while the client reads it."""
        content_type = response.headers.get("content-type", "").lower()
        streams = _streams(x, content_type)
        content = _content(self._library, response)
        if content is not None:
            self._read_already(x, content, content_type, streams=streams)
            self._note_pace(response, content)
            return response
        source = response.stream
        if streams:
            self._note_pace(response, b"")
            self._hand_over(x, response, EventTap(reader), None)
            return response
        collected: Collected = yield Collect(source, HOLD_UP_TO)
        self._note_pace(response, collected.data)
        if collected.rest is not None:
            self._hand_over(x, response, LargeTap(content_type), collected.rest)
            return response
        self._whole(x, response.headers, content_type, _decoded(self._library, response, collected.data))
        x.bytes_out = len(collected.data)
        response.stream = self._library.module.ByteStream(collected.data)
        if (elapsed := getattr(source, "elapsed", None)) is not None:
            response.elapsed = elapsed
        return response

    def _whole(self, x: Exchange, headers: Any, content_type: str, content: bytes) -> None:
        """The whole reply is here: record it, and say what it cost."""
        x.whole(content_type, content, now_ms())
        self._inside.end(x, Ending.DONE)
        assert x.cost is not None
        headers["x-llmguard-cost-usd"] = usd_string(x.cost.total)

    def _read_already(self, x: Exchange, content: bytes, content_type: str, *, streams: bool) -> None:
        """A reply that nobody will iterate over: a mock's, or one that an event hook has read."""
        if not streams:
            self._whole(x, {}, content_type, content)
            return
        x.feed(content, now_ms())
        self._inside.end(x, Ending.DONE)

    def _hand_over(self, x: Exchange, response: Any, tap: Tap, pieces: Any) -> None:
        """The client reads on, and what it reads is metered."""
        running = Running(self._inside.service, x, tap, self._inside.ended)
        response.stream = guarded_body(self._library, running, self._inside.sweep, response.stream, pieces)

    def _note_pace(self, response: Any, content: bytes) -> None:
        if response.status_code not in OVERLOADED:
            self._inside.backoff.went(self._kind)
        elif (seconds := retry_after(response.headers, content)) is not None:
            self._inside.backoff.asked(self._kind, seconds)


def told(library: Library, request: Any, dialect: Dialect, refuse: Refuse, event_id: str) -> Any:
    """A refusal as the response that an SDK understands, in its dialect's own shape."""
    reply = refused(dialect, refuse, event_id)
    return _made(library, request, reply.status, reply.headers, reply.body or b"")


def _replayed(library: Library, request: Any, replay: Replay) -> Any:
    """A kept reply as the response that the client would have got."""
    return _made(library, request, replay.status, replay.headers, b"".join(replay.chunks))


def _made(library: Library, request: Any, status: int, headers: Headers, content: bytes) -> Any:
    """A response that nobody has sent, not read yet, as a stream is given to its caller."""
    module = library.module
    sized = [*headers, (b"content-length", b"%d" % len(content))]
    response = module.Response(status, headers=sized, stream=module.ByteStream(content), request=request)
    response.elapsed = timedelta(0)
    return response


def _streams(x: Exchange, content_type: str) -> bool:
    """Whether a reply is read event by event. An error is not, nor JSON where a stream was asked for, save Gemini's:
    it streams as a JSON array."""
    if x.status >= 300:
        return False
    if content_type.startswith("text/event-stream"):
        return True
    return x.call.stream and (x.call.family == "gemini" or not content_type.startswith("application/json"))


def _content(library: Library, response: Any) -> bytes | None:
    """The body of a response that has been read, None while it waits to be."""
    if not response.is_closed:
        return None
    try:
        content: bytes = response.content
    except library.module.ResponseNotRead:
        return None
    return content


def _decoded(library: Library, response: Any, data: bytes) -> bytes:
    """A whole body without its content coding, which nobody asked for."""
    if "content-encoding" not in response.headers:
        return data
    coding = {"content-encoding": response.headers["content-encoding"]}
    try:
        content: bytes = library.module.Response(200, headers=coding, content=data).content
    except library.module.DecodingError:
        return data
    return content
