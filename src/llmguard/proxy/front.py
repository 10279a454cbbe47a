"""From a request to a call, before anything waits: the edge checks, the route, the dialect, and answers of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmguard.core.call import Call, Request
from llmguard.core.decision import Refuse
from llmguard.core.edge import EdgeLimits, Violation, check_head
from llmguard.core.ports import Dialect
from llmguard.errors import BadCall
from llmguard.forward.relay import Reply, refused
from llmguard.forward.routing import ANY_FAMILY
from llmguard.guard import Guard
from llmguard.providers import registry
from llmguard.providers.objects import bind
from llmguard.providers.routes import Route, RouteTable, spoken_family
from llmguard.proxy.models import ModelList

_FALLBACK = registry.dialect("openai_chat", "openai")
"""Renders errors where no route is known."""

Pairs = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False)
class Opened:
    """A request whose head has passed. ``headers`` have names in lower case, ``raw`` are the pairs as they came."""

    method: str
    query: str
    headers: Mapping[str, str]
    raw: Pairs
    route: Route
    dialect: Dialect
    event_id: str


class Front:
    """What stands before the relay, for a door that has no server of its own."""

    def __init__(self, guard: Guard) -> None:
        config = guard.config
        families = {name: provider.dialect for name, provider in config.providers.items()}
        self._routes = RouteTable(
            {name: "openai" if family == ANY_FAMILY else family for name, family in families.items()}
        )
        self._models = ModelList([(alias, entry.target.provider) for alias, entry in config.models.items()])
        self.limits = EdgeLimits(body=config.server.max_body)

    def open(self, method: str, raw_path: bytes, query: bytes, headers: Pairs, event_id: str) -> Opened | Reply:
        """Check a head; ``raw_path`` is the undecoded path below our mount point. A reply is the final answer."""
        head = check_head(method, raw_path, query, headers, self.limits)
        if isinstance(head, Violation):
            route = self._routes.match(method, raw_path.decode("latin-1"))
            dialect = _FALLBACK if route is None else registry.dialect(route.dialect, route.family)
            return refused(dialect, Refuse(head.code, head.status, head.message), event_id)
        path = raw_path.decode("ascii")
        route = self._routes.match(method, path, spoken_family(head))
        if route is None:
            words = f"{method} {path} is not served here"
            return refused(_FALLBACK, Refuse("unknown_route", 404, words), event_id)
        dialect = registry.dialect(route.dialect, route.family)
        return Opened(method, query.decode("ascii"), head, headers, route, dialect, event_id)

    def call(self, opened: Opened, body: bytes) -> Call | Reply:
        """Understand the body. A reply is the final answer."""
        route, dialect = opened.route, opened.dialect
        request = Request(opened.method, route.path, opened.query, opened.headers, body)
        try:
            if len(body) > self.limits.body:
                words = f"the body is larger than {self.limits.body} bytes"
                raise BadCall(words, code="body_too_large", status=413)
            call = bind(dialect.parse(request, route.endpoint, route.model), route)
        except BadCall as bad:
            refuse = Refuse(bad.code, bad.status, bad.message, param=bad.param)
            return refused(dialect, refuse, opened.event_id)
        call.raw_headers = opened.raw
        return call

    def models(self, opened: Opened) -> Reply:
        """The list of models that a caller with a good key is given."""
        found = self._models.answer(opened.route.family, opened.route.model)
        if isinstance(found, Refuse):
            return refused(opened.dialect, found, opened.event_id)
        return json_reply(200, found, opened.event_id)


def json_reply(status: int, document: Any, event_id: str) -> Reply:
    """A small JSON answer of our own."""
    headers = [(b"content-type", b"application/json"), (b"x-llmguard-request-id", event_id.encode())]
    return Reply(status, headers, json.dumps(document).encode())
