"""One request from the moment its outermost layer receives it: decide, let it in, and end it however it ends.

The twin of :mod:`llmguard.integrations.asgi.visit` for threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from llmguard.core.call import Caller
from llmguard.core.decision import Refuse, Replay
from llmguard.core.exchange import Ending, Exchange
from llmguard.errors import GuardUnavailable
from llmguard.forward.blocking.relay import BlockingReply
from llmguard.forward.relay import Reply, refused
from llmguard.forward.upstreams import renamed_path
from llmguard.guard import Guard
from llmguard.integrations.layers import Chain, Desk, Layer, records
from llmguard.integrations.wsgi.app import GONE, StartResponse, plain, send
from llmguard.integrations.wsgi.body import Scoped
from llmguard.integrations.wsgi.environ import BodyMissing, Environ, header_pairs, raw_path, read_body
from llmguard.integrations.wsgi.tap import Tap
from llmguard.runtime.context import carrying
from llmguard.runtime.ids import uuid7
from llmguard.runtime.process import ProcessService

log = logging.getLogger("llmguard.wsgi")


class ProcessDesk(Desk):
    """What the layers of a guard share in one process."""

    def __init__(self, guard: Guard, runtime: ProcessService) -> None:
        super().__init__(guard, runtime.owner)
        self.runtime = runtime


def desk_of(guard: Guard) -> ProcessDesk:
    """The one desk of a guard in this process."""
    runtime = guard.process()
    desk = guard.kept.get(ProcessDesk)
    if not isinstance(desk, ProcessDesk) or desk.runtime is not runtime:
        desk = guard.kept[ProcessDesk] = ProcessDesk(guard, runtime)
    return desk


class Visit:
    """A request that its layers look after: ``layers``, outermost first, of all those in ``chain``.

    ``followed``: its call is let in, and its reply will be metered.
    """

    def __init__(self, desk: ProcessDesk, chain: Chain, layers: Sequence[Layer]) -> None:
        self.chain = chain
        self._desk = desk
        self._runtime = desk.runtime
        self._layers = layers
        self._x: Exchange | None = None
        self._tap: Tap | None = None
        self.followed = False

    def run(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve the request. Whatever is raised, the call has been closed and recorded."""
        try:
            answer = self._serve(environ)
            if isinstance(answer, Exchange):
                return self._let_in(answer, environ, start_response)
        except BodyMissing:
            log.info("a request ended: the caller hung up before its body was whole")
            answer = GONE
        except BaseException as error:
            self._end(error)
            raise
        return send(answer, environ["REQUEST_METHOD"], start_response)

    def _serve(self, environ: Environ) -> Exchange | BlockingReply:
        """Decide: a call that may go in, or an answer."""
        desk, method, query = self._desk, environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "").encode("latin-1")
        event_id = uuid7()
        head = desk.head(self._layers, method, raw_path(environ), query, header_pairs(environ), event_id)
        if isinstance(head, Reply):
            return plain(head)
        body = read_body(environ, desk.body_limit)
        x = desk.exchange(self._layers, head, body, event_id, self._runtime.now())
        return plain(x) if isinstance(x, Reply) else self._decide(x)

    def _decide(self, x: Exchange) -> Exchange | BlockingReply:
        runtime = self._runtime
        runtime.enter(x)
        self._x = x
        decision = runtime.run(x.open(x.now))
        if isinstance(decision, Refuse):
            runtime.close(x, Ending.DONE)
            return plain(refused(x.dialect, decision, x.event_id))
        if isinstance(decision, Replay):
            runtime.close(x, Ending.DONE)
            return BlockingReply(decision.status, decision.headers, None, (chunk for chunk in decision.chunks))
        self.followed = records(x)
        if not self.followed:
            runtime.close(x, Ending.DONE)
        return x

    def _let_in(self, x: Exchange, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Have the application inside answer, with the body that the stages want it to see."""
        environ[self.chain.guard.scope_key] = self
        body = x.dialect.rewrite(x.call, x.edits) if x.edits else x.call.body
        _edit(environ, x, body)
        scope = _scope_of(x)
        with scope:
            reply = self.pass_through(self._layers[0], environ, start_response)
        return reply if isinstance(reply, list) and not self._live else Scoped(reply, scope, self._end)

    def pass_through(self, layer: Layer, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Take the request through one of the layers."""
        if self.followed and layer is self._layers[-1]:
            return self._meter(layer.app, environ, start_response)
        reply: Iterable[bytes] = layer.app(environ, start_response)
        return reply

    def _meter(self, app: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Nothing but the application is further inside: its reply is read along."""
        x, runtime = self._x, self._runtime
        assert x is not None
        try:
            runtime.perform(x.dispatch())
        except GuardUnavailable as error:
            x.recall()
            runtime.close(x, Ending.CALLER_GONE)
            refusal = Refuse("accounting_unavailable", 503, f"spend cannot be recorded now: {error}", retry_after=5)
            return send(plain(refused(x.dialect, refusal, x.event_id)), environ["REQUEST_METHOD"], start_response)
        environ["HTTP_ACCEPT_ENCODING"] = "identity"  # usage is read from the bytes that pass
        drains = x.call.stream and self._desk.drains(self._layers, x.target.provider)
        self._tap = Tap(runtime, x, start_response, drains=drains)
        return self._tap.reply(app, environ)

    @property
    def _live(self) -> bool:
        return self._x is not None and self._x.event_id in self._runtime.live

    def _end(self, error: BaseException | None) -> None:
        """The reply is over: give the call its record if it has none. One that is read on has it later."""
        x = self._x
        if x is None or (self._tap is not None and self._tap.draining):
            return
        ending = Ending.DONE if not x.sent else Ending.CALLER_GONE
        self._runtime.close(x, Ending.UPSTREAM_FAILED if isinstance(error, Exception) and x.sent else ending)


def _scope_of(x: Exchange) -> AbstractContextManager[Any]:
    """Calls that the application makes meanwhile are the caller's, too, where a key has named one."""
    if x.principal is None:
        return nullcontext()
    who = x.who
    names = (who.org, who.team, who.env, who.feature, who.end_user, who.task_id, who.tree_id, who.trace_id)
    return carrying(Caller(*names))


def _edit(environ: Environ, x: Exchange, body: bytes) -> None:
    """Change a request in place: its body and length, and a model in its path."""
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(body), str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    path = x.call.path if x.call.model == x.target.model else renamed_path(x.call, x.target)
    old = unquote_to_bytes(x.call.path).decode("latin-1")
    if path is not x.call.path and environ["PATH_INFO"].endswith(old):
        environ["PATH_INFO"] = environ["PATH_INFO"].removesuffix(old) + unquote_to_bytes(path).decode("latin-1")
        for name in ("RAW_URI", "REQUEST_URI"):
            environ.pop(name, None)
