"""The gateway as a WSGI application: every worker of every server serves it with its own thread or greenlet."""

from __future__ import annotations

import http
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from llmguard.config.loading import Source
from llmguard.forward.blocking.build import build_engines
from llmguard.forward.blocking.engine import CallerGone
from llmguard.forward.blocking.relay import BlockingRelay, BlockingReply
from llmguard.forward.build import build_upstreams
from llmguard.forward.engine import Headers
from llmguard.forward.relay import Reply, refused
from llmguard.guard import Guard, get_guard
from llmguard.integrations.wsgi.environ import BodyMissing, Environ, caller_of, header_pairs, raw_path, read_body
from llmguard.providers.base import mask_secrets
from llmguard.providers.routes import Op
from llmguard.proxy.front import Front, probes
from llmguard.proxy.mounts import check_layers
from llmguard.runtime.ids import uuid7
from llmguard.runtime.process import ProcessService

log = logging.getLogger("llmguard.wsgi")

StartResponse = Callable[..., Any]

_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus} | {499: "Client Closed Request"}
GONE = BlockingReply(499, [], b"")
"""For servers' logs: nobody hears it."""


def wsgi_app(guard: Guard | Source = None) -> WsgiApplication:
    """The gateway for WSGI servers; ``guard`` is one, or a configuration, or None for the default one.

    It starts with the first request that it serves, in each process for itself, so it survives `--preload`.
    """
    if guard is None:
        return WsgiApplication(get_guard())
    return WsgiApplication(guard if isinstance(guard, Guard) else Guard(guard))


class WsgiApplication:
    """See :func:`wsgi_app`."""

    def __init__(self, guard: Guard) -> None:
        self.gateway_of = guard
        """Tells layers around it that it does everything itself."""
        self._front = Front(guard, probes(lambda: guard.process().not_ready()))
        self._relay: tuple[ProcessService, BlockingRelay] | None = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        try:
            reply = self.answer(environ)
        except (CallerGone, BodyMissing) as error:
            log.info("a request ended: the caller hung up (%s)", type(error).__name__)
            reply = GONE
        return send(reply, environ["REQUEST_METHOD"], start_response)

    def answer(self, environ: Environ) -> BlockingReply:
        """The reply to a request, not yet sent. Raises CallerGone and BodyMissing when its caller hangs up."""
        event_id, method = uuid7(), environ["REQUEST_METHOD"]
        check_layers(environ, self.gateway_of.scope_key)
        path = raw_path(environ)
        relay = self._running()
        front, query = self._front, environ.get("QUERY_STRING", "").encode("latin-1")
        head = front.read(method, path, query, header_pairs(environ), event_id)
        if isinstance(head, Reply):
            return plain(head)
        call = front.call(head, read_body(environ, front.limits.body), event_id)
        if isinstance(call, Reply):
            return plain(call)
        if head.route.op is Op.MODELS:
            refusal = relay.verify(call, head.dialect, head.secret, event_id)
            return plain(front.models(head, event_id) if refusal is None else refused(head.dialect, refusal, event_id))
        return relay(call, head.dialect, head.secret, event_id, caller_of(environ))

    def _running(self) -> BlockingRelay:
        """The relay of this process."""
        service = self.gateway_of.process()
        running = self._relay
        if running is None or running[0] is not service:
            upstreams = build_upstreams(self.gateway_of.config)
            drains = frozenset(name for name in upstreams if self.gateway_of.config.on_disconnect(name) == "drain")
            stages = self.gateway_of.stages(service.owner)
            engines = build_engines(self.gateway_of.config)
            relay = BlockingRelay(service, stages, upstreams, engines, mask_secrets, drains)
            running = self._relay = service, relay
        return running[1]


def plain(reply: Reply) -> BlockingReply:
    """An answer of our own, which is always whole."""
    return BlockingReply(reply.status, reply.headers, reply.body)


def send(reply: BlockingReply, method: str, start_response: StartResponse) -> Iterable[bytes]:
    """Begin to answer, and return the body for the server."""
    headers = native(reply.headers)
    status = f"{reply.status} {_PHRASES.get(reply.status, 'Unknown')}"
    if reply.body is not None:
        start_response(status, [*headers, ("content-length", str(len(reply.body)))])
        return [] if method == "HEAD" else [reply.body]
    assert reply.chunks is not None
    start_response(status, headers)
    return Body(reply.chunks, reply.release)


def native(headers: Headers) -> list[tuple[str, str]]:
    """Headers as WSGI has them: text that stands for bytes."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


class Body(Iterator[bytes]):
    """The chunks of a reply. However the server ends with it, the call is closed and recorded.

    ``close`` is what WSGI servers call at the end. A worker that is stopped in the midst of a chunk raises there
    (gunicorn's SystemExit, a killed greenlet), and its server may not get so far as to call it.
    """

    def __init__(self, chunks: Generator[bytes, None, None], release: Callable[[], None]) -> None:
        self._chunks = chunks
        self._release = release

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except CallerGone:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the provider's connection and record the call. Idempotent."""
        try:
            self._chunks.close()
        finally:
            self._release()
