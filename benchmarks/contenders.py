"""How each contender is started. All listen on loopback, on the measured core, in front of the same upstream."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import guarded
from benchmarks.processes import Cores, free_port, python, running


class Unavailable(Exception):
    """This machine lacks what the contender needs; the message names it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs: its cores, a directory of its own, and the upstream's port."""

    cores: Cores
    directory: Path
    upstream_port: int


@dataclass(frozen=True, slots=True)
class Running:
    """A started contender. ``helpers`` are its processes on the shared core; ``check`` compares its books with
    the number of calls that were answered, and raises :class:`benchmarks.guarded.WrongBooks`."""

    pid: int
    port: int
    authorization: str = "sk-bench"
    helpers: tuple[int, ...] = ()
    check: Callable[[int], None] = field(default=lambda calls: None)


Contender = Callable[[Place], AbstractContextManager[Running]]


@contextmanager
def direct(place: Place) -> Iterator[Running]:
    """No proxy: a second upstream on the contender's core, so that both measure the same distance."""
    port = free_port()
    command = python("-m", "benchmarks.upstream", str(port))
    with running(command, place.cores.contender, place.directory / "direct.log", port=port) as pid:
        yield Running(pid, port)


@contextmanager
def nginx(place: Place) -> Iterator[Running]:
    """A plain reverse proxy: one worker, kept-alive upstream connections, no access log."""
    binary = shutil.which("nginx")
    if binary is None:
        raise Unavailable("nginx is not on PATH")
    port = free_port()
    configuration = place.directory / "nginx.conf"
    configuration.write_text(_nginx_configuration(place, port))
    command = [binary, "-c", str(configuration), "-p", str(place.directory), "-e", str(place.directory / "error.log")]
    with running(command, place.cores.contender, place.directory / "nginx.log", port=port) as pid:
        yield Running(pid, port)


@contextmanager
def fastapi(place: Place) -> Iterator[Running]:
    """FastAPI + httpx on uvicorn, one worker, no access log."""
    if importlib.util.find_spec("fastapi") is None:
        raise Unavailable("the package fastapi is not installed")
    port = free_port()
    command = ["env", f"UPSTREAM=http://127.0.0.1:{place.upstream_port}", *python("-m", "uvicorn")]
    command += ["benchmarks.fastapi_proxy:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with running(command, place.cores.contender, place.directory / "fastapi.log", port=port) as pid:
        yield Running(pid, port)


@contextmanager
def llmguard(place: Place) -> Iterator[Running]:
    """llmguard with everything on: a virtual key, two budgets and two limits in Redis, the ledger in SQLite."""
    with guarded.started(place.cores, place.directory, place.upstream_port) as guard:
        yield Running(guard.pid, guard.port, guard.key, (guard.valkey,), guard.check)


CONTENDERS: dict[str, Contender] = {"direct": direct, "nginx": nginx, "fastapi": fastapi, "llmguard": llmguard}
TITLES = {
    "direct": "no proxy (the upstream itself)",
    "nginx": "nginx, plain reverse proxy",
    "fastapi": "FastAPI + httpx, plain proxy",
    "llmguard": "llmguard, key + 2 budgets + 2 limits + ledger",
}


def _nginx_configuration(place: Place, port: int) -> str:
    spare = "\n".join(
        f"  {kind}_temp_path {place.directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
daemon off;
{user}
worker_processes 1;
pid {place.directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_buffer_size 64k;
{spare}
  upstream provider {{
    server 127.0.0.1:{place.upstream_port};
    keepalive 512;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
