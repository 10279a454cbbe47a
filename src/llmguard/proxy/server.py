"""Runs the gateway under uvicorn: strict parsing, a graceful end, one or several workers."""

from __future__ import annotations

import os
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from llmguard.guard import Guard
from llmguard.proxy.main import Application

WORKER_CONFIG = "LLMGUARD_CONFIG"
"""By this environment variable a worker process learns its configuration file."""


class _Server(uvicorn.Server):
    """Says "not ready" the moment a signal arrives, before connections are drained."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Turn readiness off, then shut down as uvicorn does."""
        app = self.config.loaded_app
        if isinstance(app, Application):
            app.draining = True
        super().handle_exit(sig, frame)


def create_worker() -> Application:
    """The application of one of several workers, configured from the environment."""
    return Application(Guard())


def run(guard: Guard, *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT; running calls get the configured time to end, then everything is on record."""
    config = uvicorn.Config(
        Application(guard) if workers == 1 else "llmguard.proxy.server:create_worker",
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        interface="asgi3",
        lifespan="on",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=-(-guard.config.server.drain // 1000),
    )
    server = _Server(config)
    if workers == 1:
        server.run()
        return
    sock = config.bind_socket()
    Multiprocess(config, target=server.run, sockets=[sock]).run()


def share_config(path: str | None) -> None:
    """Tell worker processes which configuration to load."""
    if path is not None:
        os.environ[WORKER_CONFIG] = os.path.abspath(path)
