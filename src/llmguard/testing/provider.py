"""A provider for tests: a real HTTP server on loopback, so that every SDK works with it, streaming too.

It speaks the APIs of OpenAI, Anthropic and Gemini at once, with the replies that it is told, by default an echo. A
model's name may ask for more (:mod:`llmguard.providers.sandbox.behaviour`), such as `usage-100-50` or `error-429`.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from select import select
from types import TracebackType
from typing import Any, ClassVar, Final

from llmguard.forward.sandbox import pieces_of
from llmguard.providers.sandbox import Answer
from llmguard.testing.scripts import Received, Reply, Script

Chooser = Callable[[Received], Reply]

_RESET: Final = struct.pack("ii", 1, 0)
_LOOK_SECONDS: Final = 0.02


class FakeProvider:
    """A provider of every family. Use it with `with`, or call :meth:`start` and :meth:`stop`.

    ::

        with FakeProvider() as provider:
            provider.queue("Hello!", usage=(12, 3))
            client = openai.OpenAI(base_url=provider.openai_url, api_key="any")

    ``requests`` are those received so far, in their order. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self._standing: Reply | Chooser = Reply()
        self._queue: deque[Reply] = deque()
        self._script = Script()
        self._lock = threading.Lock()
        self._failed: Exception | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def reply(self, reply: Reply | Chooser | str | None = None, **how: Any) -> None:
        """Set what every request gets from now on: a text, a :class:`Reply` or its fields, or a function that makes one
        of each :class:`Received`."""
        self._standing = reply if callable(reply) else _reply(reply, how)

    def queue(self, reply: Reply | str | None = None, **how: Any) -> None:
        """Set what one request gets, once; what is queued comes before the standing reply, first in, first out."""
        self._queue.append(_reply(reply, how))

    @property
    def url(self) -> str:
        """Where it is: `http://127.0.0.1:PORT`. The base URL of Anthropic's and Google's clients."""
        if self._server is None:
            raise RuntimeError("start the provider first: with FakeProvider() as provider")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """The base URL of OpenAI's clients."""
        return f"{self.url}/v1"

    def environment(self) -> dict[str, str]:
        """The environment variables with which the official SDKs find it by themselves, and keys for them."""
        return {
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": "sk-fake",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "sk-ant-fake",
            "GOOGLE_GEMINI_BASE_URL": self.url,
            "GEMINI_API_KEY": "fake",
        }

    def start(self) -> None:
        """Begin to serve."""
        self._server = _Server(self.take)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_LOOK_SECONDS,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Break off what is running, and serve no more. Raises what a function given to :meth:`reply` has raised."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.stop()
            thread.join()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def __enter__(self) -> FakeProvider:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def take(self, request: Received) -> tuple[Reply, Answer]:
        """Note a request and say what it gets."""
        with self._lock:
            self.requests.append(request)
            chosen = self._queue.popleft() if self._queue else self._standing
            try:
                reply = chosen if isinstance(chosen, Reply) else chosen(request)
                return reply, self._script.answer(request, reply)
            except Exception as error:
                self._failed = self._failed or error
                raise


def _reply(reply: Reply | str | None, how: dict[str, Any]) -> Reply:
    if isinstance(reply, Reply):
        return reply
    return Reply(text=reply, **how)


class _Server(ThreadingHTTPServer):
    """One thread for each connection; all of them end with the server."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, take: Callable[[Received], tuple[Reply, Answer]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.take = take
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that has gone is no error of ours."""

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """A test's output is for the test."""

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply, answer = self.server.take(Received(self.command, path, query, headers, self._body()))
        self._pause(reply.latency + answer.behaviour.latency_ms / 1000)
        if reply.fault == "hang" or answer.behaviour.hang:
            self._pause(None)
        elif reply.fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close_connection = True
        elif not self.server.stopping.is_set():
            self._send(answer, reply.interval + answer.behaviour.interval_ms / 1000)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

    def _send(self, answer: Answer, interval: float) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name.decode("latin-1"), value.decode("latin-1"))
        pieces = pieces_of(answer)
        if answer.streams:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(sum(map(len, answer.pieces))))
        self.end_headers()
        for number, piece in enumerate(pieces if self.command != "HEAD" else ()):
            if number and not self._pause(interval):
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.streams else piece)
        if answer.behaviour.truncate:
            self.close_connection = True
        elif answer.streams:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _pause(self, seconds: float | None) -> bool:
        """Wait, without end for None, until the server stops or the caller hangs up; False then."""
        waited = 0.0
        while seconds is None or waited < seconds:
            step = _LOOK_SECONDS if seconds is None else min(seconds - waited, _LOOK_SECONDS)
            if self.server.stopping.wait(step) or select([self.connection], [], [], 0)[0]:
                self.close_connection = True
                return False
            waited += step
        return True
