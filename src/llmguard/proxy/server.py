"""Runs the gateway under uvicorn: strict parsing, a graceful end, one or several workers."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from llmguard.guard import Guard
from llmguard.proxy.main import Application
from llmguard.proxy.protocol import HttpProtocol

_COLLECT_AFTER = 10_000
"""Objects between two collections: calls make hardly any cycles (measured: the default costs a tenth of a call)."""
WORKER_CONFIG = "LLMGUARD_CONFIG"
"""By this environment variable a worker process learns its configuration file."""


class _Announced(Application):
    """Says "not ready" the moment a signal arrives, before connections are drained."""

    async def started(self) -> None:
        """Put a note in front of the server's own signal handlers, and spare the collector what is here to stay."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._announcing(signal.getsignal(number)))

    def _announcing(self, then: Any) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self.draining = True
            if callable(then):
                then(number, frame)

        return handle


def create_worker() -> Application:
    """The application of one of several workers, configured from the environment."""
    set_up_logging()
    return _Announced(Guard())


def run(guard: Guard, *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT; running calls get the configured time to end, then everything is on record."""
    config = uvicorn.Config(
        _Announced(guard) if workers == 1 else "llmguard.proxy.server:create_worker",
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=HttpProtocol,
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
    if workers == 1:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises them again when all is done: the exit status is 0
        uvicorn.Server(config).run()
    else:
        Multiprocess(config, sockets=[config.bind_socket()]).run()


def set_up_logging() -> None:
    """Log to standard error: what is wrong, and what the operator should know."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def share_config(path: str | None) -> None:
    """Tell worker processes which configuration to load."""
    if path is not None:
        os.environ[WORKER_CONFIG] = os.path.abspath(path)
