"""From a request to a call, before anything waits: the edge checks, the route, the dialect, and answers of our own.

Every door that takes whole requests goes through here, whatever its server; none of it does any I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from llmguard.core.call import Call, Request
from llmguard.core.decision import Refuse
from llmguard.core.edge import EdgeLimits, Violation, check_head, credential
from llmguard.core.ports import Dialect
from llmguard.errors import BadCall
from llmguard.forward.relay import Reply, refused
from llmguard.forward.routing import ANY_FAMILY
from llmguard.guard import Guard
from llmguard.providers import registry
from llmguard.providers.objects import bind
from llmguard.providers.routes import Route, RouteTable, spoken_family
from llmguard.proxy.models import ModelList

FALLBACK = registry.dialect("openai_chat", "openai")
"""Renders errors where no route is known."""

Pairs = list[tuple[bytes, bytes]]
Local = Callable[[str], "Reply | None"]
"""What a process says of itself under a path, such as `/readyz`."""

_JSON = (b"content-type", b"application/json")


class Head(Struct, eq=False):
    """What a request head says that is served: one for all requests with the same head, where the server tells.

    ``headers`` and ``raw`` are its fields as text by name and as they came; ``memo`` takes what others conclude from
    the head alone.
    """

    method: str
    query: str
    headers: Mapping[str, str]
    raw: Sequence[tuple[bytes, bytes]]
    route: Route
    dialect: Dialect
    secret: str | None
    memo: dict[Any, Any] = field(default_factory=dict)


def nothing_local(path: str) -> Reply | None:
    """For a door whose process says nothing of itself."""
    return None


class Front:
    """What stands before the relay. ``local`` answers what is no call but a question about the process."""

    def __init__(self, guard: Guard, local: Local = nothing_local) -> None:
        config = guard.config
        families = {name: provider.dialect for name, provider in config.providers.items()}
        self._routes = RouteTable(
            {name: "openai" if family == ANY_FAMILY else family for name, family in families.items()}
        )
        self._models = ModelList([(alias, entry.target.provider) for alias, entry in config.models.items()])
        self._local = local
        self.limits = EdgeLimits(body=config.server.max_body)

    def read(self, method: str, raw_path: bytes, query: bytes, headers: Pairs, event_id: str) -> Head | Reply:
        """Check a head; ``raw_path`` is the undecoded path below our mount point. A reply is the final answer."""
        fields = check_head(method, raw_path, query, headers, self.limits)
        if isinstance(fields, Violation):
            refuse = Refuse(fields.code, fields.status, fields.message)
            return refused(self._shape(method, raw_path), refuse, event_id)
        path = raw_path.decode("ascii")
        if method == "GET" and (local := self._local(path)) is not None:
            return local
        route = self._routes.match(method, path, spoken_family(fields))
        if route is None:
            words = f"{method} {path} is not served here"
            return refused(FALLBACK, Refuse("unknown_route", 404, words), event_id)
        dialect = registry.dialect(route.dialect, route.family)
        return Head(method, query.decode("ascii"), fields, headers, route, dialect, credential(fields))

    def call(self, head: Head, body: bytes, event_id: str) -> Call | Reply:
        """Understand the body. A reply is the final answer."""
        route = head.route
        request = Request(head.method, route.path, head.query, head.headers, body)
        try:
            if len(body) > self.limits.body:
                raise too_large(self.limits.body)
            call = bind(head.dialect.parse(request, route.endpoint, route.model), route)
        except BadCall as bad:
            return bad_call(head.dialect, bad, event_id)
        call.raw_headers, call.memo = head.raw, head.memo
        return call

    def models(self, head: Head, event_id: str) -> Reply:
        """The list of models that a caller with a good key is given."""
        found = self._models.answer(head.route.family, head.route.model)
        if isinstance(found, Refuse):
            return refused(head.dialect, found, event_id)
        headers = [_JSON, (b"x-llmguard-request-id", event_id.encode())]
        return Reply(200, headers, json.dumps(found).encode())

    def _shape(self, method: str, raw_path: bytes) -> Dialect:
        """The dialect to refuse a bad head in: that of its path, which is looked up and used for nothing else."""
        route = self._routes.match(method, raw_path.decode("latin-1"))
        return FALLBACK if route is None else registry.dialect(route.dialect, route.family)


def too_large(limit: int) -> BadCall:
    """A body of more than ``limit`` bytes."""
    return BadCall(f"the body is larger than {limit} bytes", code="body_too_large", status=413)


def bad_call(dialect: Dialect, bad: BadCall, event_id: str) -> Reply:
    """What the caller of a request that cannot be understood hears."""
    return refused(dialect, Refuse(bad.code, bad.status, bad.message, param=bad.param), event_id)


def probes(not_ready: Callable[[], list[str]]) -> Local:
    """`/livez`, and `/readyz`, which is 503 while ``not_ready`` names a reason."""
    headers = [_JSON, (b"cache-control", b"no-store")]

    def answer(path: str) -> Reply | None:
        if path == "/livez":
            return Reply(200, headers, b'{"status":"alive"}')
        if path == "/readyz":
            reasons = not_ready()
            body = json.dumps({"status": "not ready" if reasons else "ready", "reasons": reasons}).encode()
            return Reply(503 if reasons else 200, headers, body)
        return None

    return answer
