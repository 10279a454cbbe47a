"""The WSGI doors of two guards in one Flask application, and layers around an application that calls the provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx2
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import llmguard
from llmguard.integrations.wsgi import Audit, Authn, Cache, Meter, Quota

Environ = dict[str, Any]
first = llmguard.Guard(os.environ["SERVED_CONFIG"])
second = llmguard.Guard(os.environ["SECOND_CONFIG"])
client = httpx2.Client(base_url=os.environ["SERVED_PROVIDER"], timeout=float(os.environ["SERVED_PATIENCE"]))


class Body(Iterator[bytes]):
    """The pieces of a reply, which the server closes at their end."""

    def __init__(self, reply: Any) -> None:
        self.close = reply.close
        self._pieces = reply.iter_raw()

    def __next__(self) -> bytes:
        piece: bytes = next(self._pieces)
        return piece


def forwarding(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An application of somebody's own that passes LLM calls on to the provider."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {"content-type": environ.get("CONTENT_TYPE", ""), "accept-encoding": "identity"}
    request = client.build_request(environ["REQUEST_METHOD"], environ["PATH_INFO"], headers=headers, content=body)
    reply = client.send(request, stream=True)
    kept = [(name, value) for name, value in reply.headers.items() if name != "transfer-encoding"]
    start_response(f"{reply.status_code} {reply.reason_phrase}", kept)
    return Body(reply)


def layers(guard: llmguard.Guard) -> Any:
    """The five layers of a guard, in an order that nobody would think of."""
    app: Any = forwarding
    for kind in (Quota, Authn, Audit, Cache, Meter):
        app = kind(app, guard=guard)
    return app


host = Flask("host")
host.add_url_rule("/", view_func=lambda: "ready")
application = DispatcherMiddleware(
    host,
    {
        "/llm": llmguard.wsgi_app(first),
        "/layers": layers(first),
        "/second/llm": llmguard.wsgi_app(second),
        "/second/layers": layers(second),
    },
)
