"""Dead letters run again by a real worker, through a real broker: once each, and charged to whom they were."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.signed import Signed
from llmguard.guard import Guard
from llmguard.integrations.celery.headers import HEADER, read
from llmguard.ledger import Ledger
from tests.support.ledger import T0, letter, new_id, seed
from tests.support.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
# The app as a user has it. Its worker notes each run: task id, arguments, queue, and the header that came with it.
SHOP = f"""
import json
from celery import Celery
from llmguard.integrations.celery import install
app = Celery("shop", broker=open("broker").read())
app.conf.update(task_default_queue="shop", worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
if {{guarded}}:
    install(app)

@app.task(bind=True, name="shop.summarise")
def summarise(self, *args, **kwargs):
    request = self.request
    run = [request.id, args, kwargs, request.delivery_info["routing_key"], getattr(request, "{HEADER}", None)]
    with open("runs", "a") as runs:
        runs.write(json.dumps(run) + "\\n")
"""


@pytest.fixture
def broker() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


class Shop:
    """A directory with an app, a configuration and a ledger."""

    def __init__(self, home: Path, broker: str, *, guarded: bool = False) -> None:
        self.home = home
        (home / "shop.py").write_text(SHOP.format(guarded=guarded))
        (home / "broker").write_text(broker)
        (home / "llmguard.yaml").write_text("providers: {sandbox: {dialect: sandbox}}\nledger: sqlite:///here.db\n")
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("LLMGUARD_")}
        self._environment["PYTHONPATH"] = str(home)
        self.run("migrate")
        self.guard = Guard(
            {"providers": {"sandbox": {"dialect": "sandbox"}}, "ledger": f"sqlite:///{home / 'here.db'}"}
        )
        self.ledger: Ledger = self.guard.ledger()

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command, as a person runs it in that directory."""
        command = [sys.executable, "-m", "llmguard", *arguments]
        done = subprocess.run(
            command, cwd=self.home, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
        return done

    def requeue(self, *arguments: str) -> Any:
        return json.loads(self.run("dlq", "requeue", "--app", "shop:app", *arguments, "--json").stdout)

    def keep(self, rng: random.Random, number: int, **changes: Any) -> list[str]:
        """Letters, the oldest first; returns their ids."""
        ids = [new_id(rng) for _ in range(number)]
        for index, one in enumerate(ids):
            body = json.dumps([[index], {"a": "ü"}]).encode()
            known = {"task": "shop.summarise", "body": body, "options": "{}", "at": T0 + index} | changes
            assert self.ledger.dead_letters.add(letter(id=one, **known))
        return ids

    @contextmanager
    def worker(self, queues: str = "shop,slow") -> Iterator[None]:
        """A worker that runs what is there; ended by its id."""
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool", "solo", "--queues", queues]
        log = (self.home / "worker.log").open("wb")
        process = subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle"],
            cwd=self.home,
            env=self._environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            log.close()

    def runs(self, number: int) -> list[list[Any]]:
        """What the worker has run, once it is so many."""
        file, deadline = self.home / "runs", time.monotonic() + 60
        while not file.exists() or len(lines := file.read_text().splitlines()) < number:
            assert time.monotonic() < deadline, (self.home / "worker.log").read_text()
            time.sleep(0.05)
        return [json.loads(line) for line in lines]


def test_each_letter_is_run_once_however_often_and_by_however_many_it_is_sent(
    tmp_path: Path, broker: ValkeyServer
) -> None:
    rng, shop = random.Random(seed()), Shop(tmp_path, broker.tcp_url)
    shop.keep(rng, 6)
    (slow,) = shop.keep(rng, 1, options='{"queue": "slow", "priority": 3}', at=T0 + 99)
    first = shop.requeue("--max", "2")
    assert [run["status"] for run in first["requeued"]] == ["requeued", "requeued"]
    assert first["waiting"] == 5
    named = shop.requeue(slow)
    assert [run["id"] for run in named["requeued"]] == [slow]
    command = [sys.executable, "-m", "llmguard", "dlq", "requeue", "--app", "shop:app", "--json"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rest = [run for process in both for run in json.loads(process.communicate(timeout=60)[0])["requeued"]]
    assert len(rest) == 4
    assert shop.requeue()["requeued"] == []
    with shop.worker():
        runs = shop.runs(7)
    sent = [run["requeued_as"] for run in (*first["requeued"], *named["requeued"], *rest)]
    assert sorted(run[0] for run in runs) == sorted(sent)
    assert sorted((run[1], run[2]["a"], run[3]) for run in runs) == [
        ([0], "ü", "shop"),
        ([0], "ü", "slow"),
        *(([index], "ü", "shop") for index in range(1, 6)),
    ]
    records = [record for record in shop.ledger.audit.export() if record.action == "dead_letter.requeue"]
    assert sorted(json.loads(record.details)["as"] for record in records) == sorted(sent)
    assert shop.ledger.audit.verify().flaws == []


def test_a_new_run_is_charged_to_whom_the_old_one_was_in_a_tree_of_its_own(
    tmp_path: Path, broker: ValkeyServer
) -> None:
    rng, shop = random.Random(seed()), Shop(tmp_path, broker.tcp_url, guarded=True)
    shop.keep(rng, 1, tree_id="old-root")
    (run,) = shop.requeue()["requeued"]
    with broker.client() as client:
        (message,) = client.lrange("shop", 0, -1)
    headers = json.loads(message)["headers"]
    signed = read(headers[HEADER], run["requeued_as"], shop.guard.signer())
    assert isinstance(signed, Signed)
    assert (signed.team, signed.env, signed.feature) == ("growth", "prod", "summaries")
    assert (signed.tree_id, signed.depth) == (run["requeued_as"], 0)


def test_a_broker_that_is_away_leaves_the_letter_to_be_sent_again_under_its_id(tmp_path: Path) -> None:
    rng = random.Random(seed())
    with ValkeyServer() as gone:
        address = gone.tcp_url
    shop = Shop(tmp_path, address)
    (kept,) = shop.keep(rng, 1)
    failed = shop.run("dlq", "requeue", "--app", "shop:app", code=1)
    assert f"letter {kept} was not sent" in failed.stderr
    assert "it can be tried again in a minute" in failed.stderr
    assert shop.requeue()["requeued"] == []
    (claimed,) = json.loads(shop.run("dlq", "list", "--json").stdout)
    assert claimed["status"] == "claimed"
    with sqlite3.connect(tmp_path / "here.db") as database:
        database.execute("UPDATE llmguard_dead_letters SET requeued_at = requeued_at - 61000")
    database.close()
    with ValkeyServer() as back:
        (tmp_path / "broker").write_text(back.tcp_url)
        (run,) = shop.requeue()["requeued"]
        with back.client() as client:
            assert client.llen("shop") == 1
    assert run["requeued_as"] == claimed["requeued_as"]
    assert shop.ledger.dead_letters.waiting() == 0


def test_content_that_the_app_does_not_accept_is_not_read(tmp_path: Path, broker: ValkeyServer) -> None:
    rng, shop = random.Random(seed()), Shop(tmp_path, broker.tcp_url)

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    shop.keep(
        rng, 1, body=pickle.dumps(Evil()), content_type="application/x-python-serialize", content_encoding="binary"
    )
    (good,) = shop.keep(rng, 1, at=T0 + 9)
    failed = shop.run("dlq", "requeue", "--app", "shop:app", "--json", code=1)
    assert "is not content that the app accepts" in failed.stderr
    assert not (tmp_path / "owned").exists()
    assert [run["id"] for run in json.loads(failed.stdout)["requeued"]] == [good]


def test_an_app_that_is_none(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "redis://127.0.0.1:1/0")
    for app, said in (("shop:nothing", "shop has no 'nothing'"), ("shop:json", "is a module, no Celery app")):
        assert said in shop.run("dlq", "requeue", "--app", app, code=2).stderr.replace("\n", " ")
