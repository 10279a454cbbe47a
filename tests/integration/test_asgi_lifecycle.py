"""The end of ASGI servers while streams are open: no row is lost, by the lifespan where there is one, else by whoever
adopts the spool. And what forks and reloads leave behind: nothing that is shared."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.test_asgi_doors import World, chat, config
from tests.support.gateway import Gateway
from tests.support.replies import REPLY, chat_stream
from tests.support.sight import entries, levels
from tests.support.upstream import SSE, Answer, Upstream, upstream
from tests.support.valkey import ValkeyServer
from tests.support.web_servers import web_server

STREAMS = 3
GRACE = {"uvicorn": "--timeout-graceful-shutdown", "hypercorn": "--graceful-timeout", "gunicorn": "--graceful-timeout"}
UVICORN_WORKER = "gunicorn-uvicorn.workers.UvicornWorker"


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture(scope="module")
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@contextmanager
def world(home: Path, provider: Upstream, store: ValkeyServer, kind: str, name: str, *extra: str) -> Iterator[World]:
    """A server with a ledger of its own."""
    served = Gateway(home, config(provider, store))
    keys = {"good": served.key()}
    env = {"SERVED_CONFIG": str(served.path), "UPSTREAM": provider.origin}
    grace = (GRACE[kind.partition("-")[0]], "1")
    application = name if ":" in name else f"tests.support.asgi_served:{name}"
    with web_server(kind, application, home, probe="/llm/readyz", env=env, extra=(*grace, *extra)) as server:
        yield World(server, served, provider, store, keys, "/llm")


@contextmanager
def open_streams(world: World) -> Iterator[None]:
    """Streams that have begun, and whose provider then says no more."""
    events = chat_stream(4)
    with ExitStack() as lines:
        for _ in range(STREAMS):
            first = sum(map(len, events[:2]))
            world.provider.queue(Answer(200, [("content-type", SSE)], events, "chunked", fault="hang", after=first))
            address = ("127.0.0.1", int(world.server.url.rpartition(":")[2]))
            line = lines.enter_context(socket.create_connection(address, 10))
            line.sendall(world.sent(chat(stream=True)))
            heard = b""
            while b"wwwww1" not in heard:
                heard += line.recv(65536)
        yield


def adopted(world: World) -> list[dict[str, Any]]:
    """The rows, once a command has adopted what the server's processes have left."""
    world.served.run("report", "--json")
    return entries(world.served)


def check(world: World, rows: list[dict[str, Any]]) -> None:
    assert len(rows) == STREAMS, world.server.log.read_text()[-3000:]
    assert all(0 < row["cost_nano"] <= row["cap_nano"] for row in rows)
    assert all(row["interrupted"] for row in rows)


@pytest.mark.parametrize(("kind", "name"), [("uvicorn", "hosted"), ("hypercorn", "hosted"), ("uvicorn", "layered")])
def test_the_lifespan_waits_for_open_streams_and_records_them(
    tmp_path: Path, provider: Upstream, store: ValkeyServer, kind: str, name: str
) -> None:
    with world(tmp_path, provider, store, kind, name) as served:
        with open_streams(served):
            began = time.monotonic()
            served.server.stop()
            assert time.monotonic() - began < 8
        check(served, entries(served.served))
        held = levels(store, "usd|total|0|team=")["held"]
    assert held == 0


@pytest.mark.parametrize(
    ("kind", "name"), [("uvicorn", "lazy"), (UVICORN_WORKER, "hosted"), ("gunicorn-asgi", "hosted")]
)
def test_what_a_server_does_not_let_end_is_adopted(
    tmp_path: Path, provider: Upstream, store: ValkeyServer, kind: str, name: str
) -> None:
    with world(tmp_path, provider, store, kind, name) as served:
        with open_streams(served):
            served.server.stop()
        check(served, adopted(served))
        warned = "write `app = guard.lifespan(app)`" in served.server.log.read_text()
    assert warned == (name == "lazy")


@pytest.mark.parametrize("kind", [UVICORN_WORKER, "gunicorn-asgi"])
def test_forked_and_reloaded_workers_share_nothing(
    tmp_path: Path, provider: Upstream, store: ValkeyServer, kind: str
) -> None:
    """`--preload` makes the guard before the fork; SIGHUP replaces all workers while streams are open."""
    provider.reply(json_body=REPLY)
    with world(tmp_path, provider, store, kind, "hosted", "--preload", "-w", "2") as served:
        assert [served.post(chat()).status_code for _ in range(6)] == [200] * 6
        with open_streams(served):
            served.server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 20
            while not _replaced(served) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert _replaced(served), served.server.log.read_text()[-3000:]
        assert [served.post(chat()).status_code for _ in range(6)] == [200] * 6
        served.server.stop()
        rows = adopted(served)
    assert len(rows) == 12 + STREAMS
    assert len([row for row in rows if row["interrupted"]]) == STREAMS
    assert len({row["event_id"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("kind", "started"), [("uvicorn", "Application startup complete"), ("hypercorn", "Running on")]
)
def test_a_reload_while_streams_are_open_loses_nothing(
    tmp_path: Path, provider: Upstream, store: ValkeyServer, kind: str, started: str
) -> None:
    """`--reload`: another process takes over when a file of the program has changed."""
    program = tmp_path / "program.py"
    program.write_text("from tests.support.asgi_served import hosted\n")
    provider.reply(json_body=REPLY)
    with world(tmp_path, provider, store, kind, "program:hosted", "--reload") as served:
        assert served.post(chat()).status_code == 200
        with open_streams(served):
            later = time.time() + 5
            os.utime(program, (later, later))
            deadline = time.monotonic() + 40
            while served.server.log.read_text().count(started) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert served.server.log.read_text().count(started) == 2, served.server.log.read_text()[-3000:]
        assert served.post(chat()).status_code == 200
        served.server.stop()
        rows = adopted(served)
    assert len(rows) == len({row["event_id"] for row in rows}) == 2 + STREAMS
    assert len([row for row in rows if row["interrupted"]]) == STREAMS


def _replaced(served: World) -> bool:
    """Whether two further workers run. The old ones stay for as long as their streams do."""
    started = served.server.log.read_text().count("Booting worker")
    try:
        ready = httpx2.get(served.server.url + "/llm/readyz", timeout=2).status_code == 200
    except httpx2.TransportError:
        return False
    return started >= 4 and ready
