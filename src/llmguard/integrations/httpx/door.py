"""The way of a request through a guarded client: decide, forward, read along, record, hand on.

Written once as a generator of waits (:mod:`.waits`); :meth:`Door.send` and :meth:`Door.asend` are its two twins. What
:mod:`llmguard.forward.relay` does for callers on the network, this does for code inside the process, with the client's
own transport and the provider's key that the application has.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmguard.core.call import Caller
from llmguard.core.decision import Refuse
from llmguard.core.signed import Signer
from llmguard.errors import BadCall, ConfigError, Problem
from llmguard.guard import Guard
from llmguard.integrations.httpx import asking
from llmguard.integrations.httpx.backoff import Backoff
from llmguard.integrations.httpx.gateway import Hop
from llmguard.integrations.httpx.guarding import Guarded, told
from llmguard.integrations.httpx.inside import Inside
from llmguard.integrations.httpx.libraries import Library
from llmguard.integrations.httpx.places import GATEWAY, Place, Places
from llmguard.integrations.httpx.waits import Awaiting, Blocking, Body, Flow, Forward
from llmguard.providers.routes import RouteTable
from llmguard.runtime.context import current
from llmguard.runtime.ids import uuid7

Words = Mapping[str, str]
"""What a client says of its calls where their context does not: `team`, `env`, `feature`, `end_user`."""

_CALLS = (
    "/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    ":generateContent",
    ":streamGenerateContent",
)
"""What the paths of LLM calls end with, whoever serves them."""
_ELSEWHERE = 100


class Door:
    """The way through one guard. Does no I/O before the first request that goes through."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        providers = guard.config.reachable
        self._places = Places(providers, guard.config.gateway)
        self._routes = RouteTable({name: provider.dialect for name, provider in providers.items() if provider.address})
        self._elsewhere: dict[str, None] = {}
        self._made: Inside | None = None
        self._signer: Signer | None = None
        self._waiting: tuple[int, Backoff] | None = None

    def places_of(self, request: Any) -> Sequence[Place]:
        """Where a request may be going that must go through here; nothing for one that passes as it is."""
        if asking.on_its_way(request):
            return ()
        places = self._places.find(request.url)
        if not places:
            self._note_elsewhere(request)
        return () if asking.is_signed(request) else places

    @property
    def places(self) -> tuple[str, ...]:
        """Where calls are guarded, in words."""
        return self._places.words

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Origins of requests that looked like LLM calls and passed as they were."""
        return tuple(self._elsewhere)

    def _note_elsewhere(self, request: Any) -> None:
        if request.method == "POST" and request.url.path.endswith(_CALLS) and len(self._elsewhere) < _ELSEWHERE:
            self._elsewhere[f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"] = None

    def send(
        self, library: Library, places: Sequence[Place], forward: Callable[[Any], Any], request: Any, words: Words
    ) -> Any:
        """Take a request through. ``forward`` sends one and returns the response, its body not read.

        Raises what ``forward`` raises, and :class:`llmguard.errors.TaskAborted`.
        """
        return Blocking(forward).drive(self._way(library, places, request, words))

    async def asend(
        self,
        library: Library,
        places: Sequence[Place],
        forward: Callable[[Any], Awaitable[Any]],
        request: Any,
        words: Words,
    ) -> Any:
        """The asynchronous twin of :meth:`send`."""
        return await Awaiting(forward).drive(self._way(library, places, request, words))

    def _way(self, library: Library, places: Sequence[Place], request: Any, words: Words) -> Flow[Any]:
        passage = asking.Passage()
        caller = _caller(words)
        try:
            if places[0] is GATEWAY:
                request.extensions = {**request.extensions, asking.MARK: passage}
                hop = Hop(self._patience(), self._sign(), caller, lambda: self._paid(caller))
                return (yield from hop.way(library, request))
            return (yield from self._to_provider(library, places, request, caller, passage))
        finally:
            passage.open = False

    def _to_provider(
        self, library: Library, places: Sequence[Place], request: Any, caller: Caller, passage: asking.Passage
    ) -> Flow[Any]:
        headers = dict(request.headers.items())
        route = asking.find_route(self._routes, places, request, headers)
        if route is None:
            return (yield Forward(request))
        body = yield Body(request)
        try:
            call, dialect = asking.understand(request, headers, body, route)
        except BadCall as bad:
            refuse = Refuse(bad.code, bad.status, bad.message, param=bad.param)
            return told(library, request, asking.dialect_of(route), refuse, uuid7())
        call.origin = self._places.host_among_many(request.url)
        kind = (route.upstream, call.model, caller.team, caller.feature)
        return (yield from Guarded(library, self._inside(), request, caller, kind).way(call, dialect, passage))

    def _inside(self) -> Inside:
        """What belongs to this process: made anew in a forked child, and after the guard was closed."""
        service, made = self._guard.process(), self._made
        if made is None or made.service is not service:
            made = self._made = Inside(service, self._guard.stages(service.owner, inside=True))
        return made

    def _patience(self) -> Backoff:
        """That of calls to the gateway, for which no service of this process's own need run."""
        if self._waiting is None or self._waiting[0] != os.getpid():
            self._waiting = (os.getpid(), Backoff())
        return self._waiting[1]

    def _paid(self, caller: Caller) -> None:
        if caller.execution is not None:
            self._inside().paid(caller)

    def _sign(self) -> Signer:
        if self._signer is None:
            self._signer = self._guard.signer()
        return self._signer


def check_guard(guard: object) -> None:
    """Raises ConfigError for what is neither a guard nor None, the default one."""
    if guard is not None and not isinstance(guard, Guard):
        fix = f"write guard=llmguard.Guard({guard!r})" if isinstance(guard, str) else "write guard=llmguard.Guard(…)"
        raise ConfigError([Problem("guard", f"{type(guard).__name__} is no guard", fix)])


def door_of(guard: Guard) -> Door:
    """The guard's door: all its clients share one, so that they share what this process knows of its limits."""
    door = guard.kept.get(Door)
    if not isinstance(door, Door):
        door = guard.kept.setdefault(Door, Door(guard))
    assert isinstance(door, Door)
    return door


def _caller(words: Words) -> Caller:
    """Who calls: what the context says, and where it says nothing, the client."""
    caller = current()
    missing: dict[str, Any] = {name: word for name, word in words.items() if getattr(caller, name) is None}
    return replace(caller, **missing) if missing else caller
