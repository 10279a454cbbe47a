"""Child processes: each pinned to its core, ended by its own id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 30
STOP_SECONDS = 20


class Failed(Exception):
    """A process of the benchmark did not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the measured process has to itself, and which one everything else shares."""

    contender: int
    rest: int

    @property
    def alone(self) -> bool:
        """Whether the contender really has a core of its own."""
        return self.contender != self.rest


def pick_cores() -> Cores:
    """The first two cores this process may use; the same one twice where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[min(1, len(usable) - 1)])


def python(*arguments: str) -> list[str]:
    """The command line that runs this interpreter."""
    return [sys.executable, *arguments]


def free_port() -> int:
    """A loopback port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """This process's environment without settings that would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LLMGUARD_")}


@contextmanager
def running(command: list[str], core: int, log: Path, *, port: int) -> Iterator[int]:
    """Start a server on ``core``; yield its process id once it listens on ``port``; end it and its children on leaving.

    Each gets a session of its own, so that Ctrl-C reaches this process alone and the order of ending is ours; and an
    environment without `LLMGUARD_*`, which would override its configuration. Raises :class:`Failed` with the end of
    its log when it does not come up.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        _wait_until_listening(child, port, log)
        yield child.pid
    finally:
        _end(child)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, for error messages."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _wait_until_listening(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if child.poll() is not None:
            raise Failed(f"{child.args!r} ended with {child.returncode}:\n{tail(log)}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Failed(f"{child.args!r} does not listen on port {port}:\n{tail(log)}")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    with suppress(ProcessLookupError):  # none of its own children is left, as it should be
        os.killpg(child.pid, signal.SIGKILL)
