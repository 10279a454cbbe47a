"""Runs the gateway under uvicorn: strict parsing, graceful end, one or several workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from llmguard.errors import ConfigError, Problem
from llmguard.guard import Guard
from llmguard.proxy.main import Application

DRAIN_SECONDS = 30
WORKER_CONFIG = "LLMGUARD_WORKER_CONFIG"
"""Environment variable by which a worker process learns its configuration file."""


class _Server(uvicorn.Server):
    """Says "not ready" the moment a signal arrives, before connections are drained."""

    def __init__(self, config: uvicorn.Config, app: Application) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking readiness checks, then shut down as uvicorn does."""
        self._app.draining = True
        super().handle_exit(sig, frame)
