"""Team, environment, feature and tree arrive at every call, whichever way it comes about, from the web request on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from celery.signals import before_task_publish
from fastapi import FastAPI

import llmguard
from llmguard.core.signed import HEADER, Signed, Signer
from llmguard.core.signed import task as bound_to
from llmguard.guard import Guard
from llmguard.integrations.celery import install
from llmguard.runtime.ids import now_ms
from tests.support.celery_rig import Rig, Worker, rig
from tests.workers.paths import KILLS, NOT_ON, PATHS

POOLS = ("prefork", "threads", "gevent", "solo")
ALL = {
    **{(path, pool): calls for pool in POOLS for path, calls in PATHS.items() if (path, pool) not in NOT_ON},
    **{(path, "prefork"): calls for path, calls in KILLS.items()},
}
"""How many calls each path leads to, on each pool."""
SETTLED = "SELECT team, env, tree_id FROM ledger_entries WHERE kind = 'POST' AND feature = ?"


@dataclass(frozen=True, slots=True)
class Path:
    """One path on one pool: the id of the task that the web request has sent, and how many calls it leads to."""

    root_id: str
    calls: int


def tag_of(path: str, pool: str) -> str:
    """The tag of a path's calls, which is their feature too."""
    return f"{path}.{pool}"


class Web:
    """A web application that enqueues tasks for whoever asks."""

    def __init__(self, guard: Guard, workers: dict[str, Worker]) -> None:
        self.app = FastAPI()
        self.app.post("/{pool}/{path}")(self.enqueue)
        self._workers = workers
        for worker in workers.values():
            install(worker.app, guard)

    def enqueue(self, pool: str, path: str) -> str:
        """In a thread, as views are that are no coroutines."""
        worker, tag = self._workers[pool], tag_of(path, pool)
        worker.app.set_current()
        with llmguard.context(team="web", env="test", feature=tag, end_user="u1"):
            name = f"tests.workers.tasks_attribution.{path}"
            return str(worker.app.send_task(name, (tag,), queue=worker.queue).id)

    async def ask(self, wanted: list[tuple[str, str]]) -> list[str]:
        """Enqueue all of them; returns the ids."""
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
            replies = [await client.post(f"/{pool}/{path}") for path, pool in wanted]
        return [reply.raise_for_status().json() for reply in replies]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, dict[str, Path]]]:
    """All paths on all pools, played at once."""
    with rig(tmp_path_factory.mktemp("attribution"), "tests.workers.tasks_attribution") as r:
        workers = {pool: r.worker(pool, guarded=True) for pool in POOLS}
        r.wait_ready()
        web = Web(Guard(str(r.config)), workers)
        ids = asyncio.run(web.ask(list(ALL)))
        paths = {tag_of(*which): Path(root_id, calls) for root_id, (which, calls) in zip(ids, ALL.items(), strict=True)}
        wait_paid(r, paths)
        yield r, paths


def wait_paid(r: Rig, paths: dict[str, Path]) -> None:
    """Until every path has come to all of its calls."""
    deadline = time.monotonic() + 60
    while missing := {tag: path.calls - r.provider.paid(tag) for tag, path in paths.items()}:
        missing = {tag: calls for tag, calls in missing.items() if calls}
        if not missing:
            return
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)


@pytest.mark.parametrize(("path", "pool"), ALL)
def test_every_call_is_attributed(played: tuple[Rig, dict[str, Path]], path: str, pool: str) -> None:
    r, paths = played
    tag = tag_of(path, pool)
    wanted = Counter({("web", "test", paths[tag].root_id): paths[tag].calls})
    deadline = time.monotonic() + 30
    while (found := rows(r, tag)) != wanted:
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"
        time.sleep(0.1)


def rows(r: Rig, tag: str) -> Counter[tuple[str, str, str]]:
    """Team, environment and tree of the calls in the ledger that have this feature."""
    with closing(sqlite3.connect(r.home / "ledger.db")) as ledger:
        return Counter(ledger.execute(SETTLED, (tag,)).fetchall())


def test_no_call_was_for_nobody(played: tuple[Rig, dict[str, Path]]) -> None:
    r, _ = played
    with closing(sqlite3.connect(r.home / "ledger.db")) as ledger:
        strangers = ledger.execute(
            "SELECT team, feature FROM ledger_entries WHERE team NOT IN ('web', 'growth')"
        ).fetchall()
    assert strangers == []


@pytest.mark.parametrize("why", ["forged", "replayed"])
def test_a_header_that_is_not_believed(played: tuple[Rig, dict[str, Path]], why: str) -> None:
    """Someone with access to the broker writes another team's name, or another message's header, on a message."""
    r, _ = played
    worker = r.workers[0]
    key = Guard(str(r.config)).secrets().signing if why == "replayed" else (b"a key that somebody has made up",)
    claim = Signed(team="web", env="test", feature=why, tree_id="elsewhere")
    text = Signer(key).sign(claim, bound_to("another task"), now_ms())

    def write(headers: dict[str, Any], **_: Any) -> None:
        headers[HEADER] = text

    before_task_publish.connect(write)
    try:
        worker.app.send_task("tests.workers.tasks_attribution.of_growth", (why,), queue=worker.queue)
    finally:
        before_task_publish.disconnect(write)
    worker.wait_until(lambda: r.provider.paid(why) == 1)
    worker.wait_until(lambda: entries(r, "team = 'growth' AND feature = 'summaries'") >= 1, what="a row of growth's")
    worker.wait_until(lambda: rejected(r, why) == ["task tests.workers.tasks_attribution.of_growth"], what=why)
    assert entries(r, f"feature = '{why}'") == 0


def entries(r: Rig, condition: str) -> int:
    """How many rows of the ledger fulfil a condition."""
    with closing(sqlite3.connect(r.home / "ledger.db")) as ledger:
        (number,) = ledger.execute(f"SELECT count(*) FROM ledger_entries WHERE {condition}").fetchone()
    return int(number)


def rejected(r: Rig, why: str) -> list[str]:
    """The bearers of contexts that were not believed for this reason, by the audit trail."""
    records = r.llmguard("audit", "tail")
    return [
        record["subject"]
        for record in records
        if record["action"] == "context.rejected" and why in json.dumps(record["details"])
    ]
