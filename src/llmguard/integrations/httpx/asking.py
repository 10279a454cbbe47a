"""From a client's request to a call, and back to the request that goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmguard.core.call import Call, Request
from llmguard.core.ports import Dialect
from llmguard.integrations.httpx.libraries import Library
from llmguard.integrations.httpx.places import Place
from llmguard.providers import registry
from llmguard.providers.objects import bind
from llmguard.providers.routes import Op, Route, RouteTable, spoken_family

_OWN = "x-llmguard-"
_SIGNED = "aws4-"
_KEYS = ("x-api-key", "api-key", "x-goog-api-key")
MARK = "llmguard"
"""The extension of a request that is on its way through a door already."""


class Passage:
    """Marks a request for as long as it is on its way through a door, so that no second one stops it."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True


def on_its_way(request: Any) -> bool:
    """Whether another door has let this request through and still waits for its reply."""
    passage = request.extensions.get(MARK)
    return isinstance(passage, Passage) and passage.open


def is_signed(request: Any) -> bool:
    """Whether the request carries a signature of its headers and body (AWS SigV4), which any edit would break, and no
    key beside it that a provider would take instead."""
    signed = request.headers.get("authorization", "").lower().startswith(_SIGNED)
    return signed and not any(name in request.headers for name in _KEYS)


def find_route(routes: RouteTable, places: Sequence[Place], request: Any, headers: Mapping[str, str]) -> Route | None:
    """The route of a request to a provider, None where it can cost nothing: lists of models, reads of what lies there.

    The provider's key is the application's own, so whatever lies there is its own, too. Of several providers at one
    address the one is meant in whose family the request is written.
    """
    path, spoken = request.url.raw_path.partition(b"?")[0].decode("ascii"), spoken_family(headers)
    found = [_route(routes, place, request.method, path, spoken) for place in places]
    own = [route for route, place in zip(found, places, strict=True) if route is not None and _is_own(route, place)]
    route = own[0] if own else found[0]
    if route is None or route.op is Op.MODELS or (route.op is Op.FORBIDDEN and request.method != "POST"):
        return None
    return route


def _route(routes: RouteTable, place: Place, method: str, path: str, spoken: str | None) -> Route | None:
    rest = path[len(place.base) :] if path.startswith(place.base) else path
    return routes.match(method, f"/{place.provider}{rest}", spoken)


def _is_own(route: Route, place: Place) -> bool:
    return route.family == place.family and route.op not in (Op.PASSTHROUGH, Op.FORBIDDEN)


def understand(request: Any, headers: Mapping[str, str], body: bytes, route: Route) -> tuple[Call, Dialect]:
    """The call that a request makes. Raises :class:`llmguard.errors.BadCall`."""
    dialect = dialect_of(route)
    query = request.url.query.decode("ascii")
    asked = Request(request.method, route.path, query, headers, body)
    call = bind(dialect.parse(asked, route.endpoint, route.model), route)
    call.reads, call.deletes = (), None
    return call, dialect


def dialect_of(route: Route) -> Dialect:
    """The dialect in which a route is spoken."""
    return registry.dialect(route.dialect, route.family)


def outgoing(library: Library, request: Any, call: Call, body: bytes, passage: Passage) -> Any:
    """The request to send: it asks for a reply that is not compressed, since usage is read from the bytes that pass.

    A copy where the body was edited, or where headers speak to the guard, which is no provider's business.
    """
    extensions = {**request.extensions, MARK: passage}
    own = [name for name in call.headers if name.startswith(_OWN)]
    if body is call.body and not own:
        request.headers["accept-encoding"] = "identity"
        request.extensions = extensions
        return request
    headers = request.headers.copy()
    for name in own:
        del headers[name]
    headers["accept-encoding"] = "identity"
    if body:
        headers.pop("transfer-encoding", None)
        headers["content-length"] = str(len(body))
    module = library.module
    return module.Request(request.method, request.url, headers=headers, content=body or None, extensions=extensions)
