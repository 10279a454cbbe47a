"""A model server of our own behind the guard's layers in several orders, as WSGI servers import it."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from werkzeug.middleware.dispatcher import DispatcherMiddleware

import llmguard
from llmguard.integrations.wsgi import Authn, ContextMiddleware, Meter, Quota
from llmguard.runtime.context import current
from tests.support.replies import REPLY, USAGE, chat_stream

guard = llmguard.Guard(os.environ["SERVED_CONFIG"])
Environ = dict[str, Any]


def model(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers chat calls: whole, streamed (one event each tenth of a second), or with what went wrong."""
    asked = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")
    said = asked.get("messages", [{}])[0].get("content")
    if said == "fail":
        raise RuntimeError("the model server fails")
    if said == "whose":
        start_response("200 OK", [("content-type", "text/plain")])
        return [f"{current().team}".encode()]
    if not asked.get("stream"):
        start_response("200 OK", [("content-type", "application/json")])
        return [json.dumps(REPLY).encode()]
    return _stream(start_response, forever=said == "forever")


def _stream(start_response: Callable[..., Any], *, forever: bool) -> Iterator[bytes]:
    start_response("200 OK", [("content-type", "text/event-stream")])
    events = chat_stream(4, USAGE)
    for event in events[:2] + events[1:2] * 200 if forever else events:
        yield event
        time.sleep(0.1)


class Zipped:
    """Compresses whole replies: middleware that knows nothing of the guard."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        begun: list[Any] = []
        body = self.app(environ, lambda status, headers, error=None: begun.append((status, headers)))
        status, headers = begun[0]
        if dict(headers).get("content-type") != "application/json":
            start_response(status, headers)
            return body  # type: ignore[no-any-return]
        whole = gzip.compress(b"".join(body))
        kept = [(name, value) for name, value in headers if name != "content-length"]
        start_response(status, [*kept, ("content-encoding", "gzip"), ("content-length", str(len(whole)))])
        return [whole]


def ready(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """For whoever starts the server."""
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"ready"]


application = DispatcherMiddleware(
    ready,
    {
        "/1": Authn(Quota(Meter(model, guard=guard), guard=guard), guard=guard),
        "/2": Meter(Zipped(Quota(Authn(model, guard=guard), guard=guard)), guard=guard),
        "/3": Zipped(Quota(Zipped(Meter(Authn(model, guard=guard), guard=guard)), guard=guard)),
        "/inside": ContextMiddleware(Quota(model, guard=guard), guard=guard, team="inside", feature="chat"),
        "/drained": Authn(Quota(model, guard=guard, on_disconnect="drain"), guard=guard),
        "/gateway": Authn(Quota(llmguard.wsgi_app(guard), guard=guard), guard=guard),
    },
)
