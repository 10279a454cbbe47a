"""Workers that are forked, stopped, killed and reloaded under gunicorn: no row is lost, and nothing is shared."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.replies import REPLY, USAGE, chat_stream
from tests.support.sight import entries
from tests.support.upstream import SSE, Answer
from tests.support.web_world import Shared, World, chat, known_to, shared, world_of

DJANGO = "tests.support.django_served:wsgi"
PLAIN = "tests.support.wsgi_served:application"
EVENTS = chat_stream(4, USAGE)


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with shared(tmp_path_factory.mktemp("lifecycle")) as made:
        yield made


def test_a_preloaded_project_is_shared_and_nothing_of_the_guard_is(common: Shared) -> None:
    common.provider.reply(json_body=REPLY)
    with world_of(common, "gunicorn-gthread", DJANGO, "/llm", extra=["--preload", "-w", "2"]) as world:
        known = known_to(world)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: world.post(chat()), range(24)))
        assert [reply.status_code for reply in replies] == [200] * 24
        master = world.server.process.pid
        assert threads(master) == 1
        workers = children(master)
        assert len(workers) == 2
        assert all(threads(worker) > 3 for worker in workers), "each has threads of its own"
        first, second = map(sockets, workers)
        assert first & second <= sockets(master), "they share what the server listens on"
        assert len(first - second) > 1, "each has connections of its own to the provider and the store"
        assert len(known_to(world) - known) == 24


@pytest.mark.parametrize("kind", ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent"])
def test_a_server_that_is_stopped_amid_a_stream(common: Shared, kind: str) -> None:
    extra = ["--graceful-timeout", "1"]
    with world_of(common, kind, PLAIN, extra=extra) as world:
        known = known_to(world)
        line = open_stream(world)
        world.server.stop(timeout=15)
        line.close()
    assert interrupted(common, known) == 1


def test_a_worker_that_takes_too_long(common: Shared) -> None:
    with world_of(common, "gunicorn-sync", DJANGO, "/llm", extra=["--timeout", "2"]) as world:
        known = known_to(world)
        (worker,) = children(world.server.process.pid)
        with open_stream(world) as line:
            line.settimeout(15)
            while line.recv(65536):
                pass  # until gunicorn has killed the worker
        common.provider.reply(json_body=REPLY)
        assert world.post(chat()).status_code == 200
        assert children(world.server.process.pid) != [worker]
        assert wait_for(common, known, 2) == [None, "caller_gone"]


def test_a_killed_worker_s_calls_are_found_by_the_next_one(common: Shared) -> None:
    with world_of(common, "gunicorn-gthread", PLAIN) as world:
        known = known_to(world)
        (worker,) = children(world.server.process.pid)
        line = open_stream(world)
        os.kill(worker, signal.SIGKILL)
        line.close()
    assert interrupted(common, known) == 1


def test_a_reload_loses_nothing(common: Shared) -> None:
    common.provider.reply(json_body=REPLY)
    with world_of(common, "gunicorn-gthread", DJANGO, "/llm") as world:
        known = known_to(world)
        before = children(world.server.process.pid)
        assert world.post(chat()).status_code == 200
        world.server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while set(children(world.server.process.pid)) & set(before) or not children(world.server.process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert world.post(chat()).status_code == 200
        assert len(known_to(world) - known) == 2


def open_stream(world: World) -> socket.socket:
    """A caller who has heard the first event of a stream whose provider has fallen silent."""
    silent = Answer(200, [("content-type", SSE)], EVENTS, "chunked", fault="hang", after=len(EVENTS[0]))
    world.provider.queue(silent)
    line = socket.create_connection(("127.0.0.1", int(world.server.url.rpartition(":")[2])), 10)
    line.sendall(world.request(chat(stream=True)))
    heard = b""
    while EVENTS[0] not in heard:
        heard += line.recv(65536)
    return line


def interrupted(common: Shared, known: set[str]) -> int:
    """How many calls were cut and are on record, once the next server runs."""
    with world_of(common, "gunicorn-gthread", PLAIN):
        return sum(reason is not None for reason in wait_for(common, known, 1))


def wait_for(common: Shared, known: set[str], count: int) -> list[Any]:
    """Why the new entries were interrupted, those that were not first; once there are so many."""
    deadline = time.monotonic() + 30
    while len(new := [e["interrupted"] for e in entries(common.served) if e["event_id"] not in known]) < count:
        assert time.monotonic() < deadline, new
        time.sleep(0.05)
    return sorted(new, key=lambda reason: reason or "")


def children(pid: int) -> list[int]:
    """The processes that a process has forked."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def sockets(pid: int) -> set[str]:
    """The sockets that a process holds, as the kernel names them."""
    names = (os.readlink(name) for name in Path(f"/proc/{pid}/fd").iterdir() if name.is_symlink())
    return {name for name in names if name.startswith("socket:")}
