"""A real gateway in a process of its own: `llmguard serve` with a configuration, keys, and its ledger to look into."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

START_SECONDS = 40.0
_CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("LLMGUARD_") and not k.endswith("_API_KEY")}


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """One gateway below ``home``: its configuration file, its process, its ledger.

    ``config`` is completed with a ledger, a spool and a server section where it has none.
    """

    def __init__(self, home: Path, config: Mapping[str, Any], *, port: int | None = None) -> None:
        self.home = home
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.path = home / "llmguard.yaml"
        self.log = home / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None
        defaults: dict[str, Any] = {
            "ledger": f"sqlite:///{home / 'ledger.db'}",
            "spool": {"path": str(home / "spool")},
            "server": {"host": "127.0.0.1", "port": self.port},
        }
        # JSON is YAML.
        self.path.write_text(json.dumps(defaults | dict(config)))
        self.path.chmod(0o600)

    def run(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another `llmguard` command with this configuration."""
        command = [sys.executable, "-m", "llmguard", *arguments, "--config", str(self.path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=_CLEAN, cwd=self.home, check=False
        )
        assert not ok or done.returncode == 0, done.stderr
        return done

    def key(self, team: str = "search", env: str = "prod", feature: str = "chat", **options: str) -> str:
        """Make a virtual key and return its text."""
        extra = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = ["keys", "create", "--team", team, "--env", env, "--feature", feature, *extra, "--json"]
        return str(json.loads(self.run(*command).stdout)["key"])

    def launch(self) -> None:
        """Start the process, and wait for nothing."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "llmguard", "serve", "--config", str(self.path)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=_CLEAN, cwd=self.home)

    def start(self) -> None:
        """Start serving and wait until it is ready."""
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx2.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready in {START_SECONDS} s:\n{self.log.read_text()}")

    def stop(self, how: int = signal.SIGTERM, timeout: float = 40.0) -> int:
        """Signal the process and wait for its end; returns its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(timeout)
        self.process = None
        return status

    def rows(self, **where: Any) -> list[dict[str, Any]]:
        """Rows of the view `ledger_entries`, in order of time."""
        engine = sa.create_engine(
            json.loads(self.path.read_text())["ledger"].replace("postgresql://", "postgresql+psycopg://")
        )
        try:
            with engine.connect() as connection:
                found = connection.execute(sa.text("SELECT * FROM ledger_entries ORDER BY created_at, event_id"))
                rows = [dict(row) for row in found.mappings()]
        finally:
            engine.dispose()
        return [row for row in rows if all(row[name] == value for name, value in where.items())]

    def metric(self, name: str) -> float:
        """A metric's present value, summed over its labels."""
        lines = httpx2.get(f"{self.url}/metrics", timeout=5).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line))

    def wait_for_rows(self, count: int, timeout: float = 10.0, **where: Any) -> list[dict[str, Any]]:
        """The rows, once there are at least ``count``."""
        deadline = time.monotonic() + timeout
        while len(rows := self.rows(**where)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(rows) >= count, f"{len(rows)} rows after {timeout} s, {count} wanted\n{self.log.read_text()[-3000:]}"
        return rows


@contextmanager
def gateway(home: Path, config: Mapping[str, Any], *, port: int | None = None) -> Iterator[Gateway]:
    """A running gateway; ended by its process id whatever happens."""
    served = Gateway(home, config, port=port)
    served.start()
    try:
        yield served
    finally:
        if served.process is not None:
            try:
                served.stop(timeout=15)
            except subprocess.TimeoutExpired:
                served.stop(signal.SIGKILL)
