"""A receiver of alerts: a real server on a socket, which answers as it is told and keeps what it got."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def alert(self) -> Any:
        """The document in it."""
        return json.loads(self.body)


class Receiver:
    """``answers`` are the statuses of the next requests, 200 after them; ``gate`` makes all of them wait until set."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[int] = []
        self.got: list[Delivery] = []
        self.gate = threading.Event()
        self.gate.set()

    def wait(self, done: Callable[[list[Delivery]], bool], seconds: float = 15.0) -> list[Delivery]:
        """The deliveries, once they are as wanted."""
        deadline = time.monotonic() + seconds
        while not done(self.got):
            assert time.monotonic() < deadline, self.got
            time.sleep(0.01)
        return list(self.got)


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on loopback; with ``tls`` its address is `https://localhost:…`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.gate.wait(30)
            received.got.append(Delivery(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status = received.answers.pop(0) if received.answers else 200
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", f"{received.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing: the test looks at what was kept."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port = server.server_address[1]
    received = Receiver(f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}")
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield received
    finally:
        received.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()
