"""Web servers for tests: real processes on a loopback port, ended by their process ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support.gateway import free_port

_ROOT = Path(__file__).parents[2]
_START_S = 60.0


@dataclass(slots=True)
class WebServer:
    """A running server. ``url`` is its origin."""

    kind: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, how: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Signal the process and wait for its end; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout)


def command(kind: str, application: str, port: int) -> list[str]:
    """How a server is started with an application (``module:name``)."""
    address = f"127.0.0.1:{port}"
    python = [sys.executable, "-m"]
    match kind.partition("-"):
        case ("gunicorn", _, worker):
            threads = ["--threads", "8"] if worker == "gthread" else []
            shape = ["-k", worker, "-w", "1", *threads]
            return [*python, "gunicorn", *shape, "-b", address, "--no-control-socket", application]
        case ("waitress", _, _):
            watching = "--channel-request-lookahead=1"
            return [*python, "waitress", f"--listen={address}", "--threads=8", watching, application]
        case ("werkzeug", _, _):
            module, _, name = application.partition(":")
            code = (
                f"from werkzeug.serving import run_simple; from {module} import {name} as a; "
                f"run_simple('127.0.0.1', {port}, a, threaded=True)"
            )
            return [sys.executable, "-c", code]
        case ("uvicorn", _, _):
            return [*python, "uvicorn", "--host", "127.0.0.1", "--port", str(port), application]
        case ("hypercorn", _, _):
            return [*python, "hypercorn", "-b", address, application]
    raise ValueError(kind)


@contextmanager
def web_server(
    kind: str, application: str, home: Path, *, probe: str, env: dict[str, str], extra: Sequence[str] = ()
) -> Iterator[WebServer]:
    """Serve ``application`` until the block ends; ready when ``probe`` answers 200."""
    port = free_port()
    log = home / f"{kind}-{port}.log"
    environ = os.environ | env | {"PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "default"}
    with log.open("wb") as out:
        line = [*command(kind, application, port), *extra]
        process = subprocess.Popen(line, stdout=out, stderr=out, env=environ, cwd=home)
    server = WebServer(kind, f"http://127.0.0.1:{port}", process, log)
    try:
        _await(server, probe)
        yield server
    finally:
        if process.poll() is None:
            try:
                server.stop()
            except subprocess.TimeoutExpired:
                server.stop(signal.SIGKILL)


def _await(server: WebServer, probe: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        try:
            if httpx2.get(server.url + probe, timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not ready in {_START_S} s:\n{server.log.read_text()}")
