"""Calls go on while the ledger is away; a start without it is not ready. With a real PostgreSQL that is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import httpx2
import psycopg
import pytest

from tests.support import postgres
from tests.support.gateway import Gateway
from tests.support.load import CHAT, Body, load, metered, steady_port
from tests.support.sight import entries, entry_of
from tests.support.upstream import Upstream, upstream

PRICE = {"input": "$5/M", "output": "$15/M", "output_max": 4_096}
SECRETS = {"pepper": token_hex(32), "signing": [token_hex(32)], "cache": [token_hex(32)]}


def chat(user: str) -> Body:
    messages = [{"role": "user", "content": "Say something that takes a while, please."}]
    return {"model": "gpt-4o", "messages": messages, "user": user, "max_tokens": 100}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def wait_for(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.05)


class Sql:
    """A PostgreSQL server that can be stopped and started again where it was."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            data = connection.execute("SHOW data_directory").fetchone()
        assert data is not None
        self._pid = int((Path(data[0]) / "postmaster.pid").read_text().split()[0])
        self._command = Path(f"/proc/{self._pid}/cmdline").read_bytes().split(b"\0")[:-1]
        self._user = os.stat(f"/proc/{self._pid}").st_uid
        self._again: subprocess.Popen[bytes] | None = None
        self._url = url

    def stop(self) -> None:
        """End it at once, without waiting for its clients."""
        os.kill(self._pid, signal.SIGINT)
        wait_for(lambda: not self._answers(), 10)
        self.close()

    def start(self) -> None:
        """Start it where it was."""
        quiet = subprocess.DEVNULL
        self._again = subprocess.Popen(self._command, stdout=quiet, stderr=quiet, user=self._user)
        self._pid = self._again.pid
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def close(self) -> None:
        """End what was started here."""
        if self._again is not None:
            if self._again.poll() is None:
                self._again.send_signal(signal.SIGINT)
            self._again.wait(10)
            self._again = None


@pytest.fixture(scope="module")
def sql() -> Iterator[tuple[str, Sql]]:
    with postgres.running() as url:
        server = Sql(url)
        try:
            yield url, server
        finally:
            server.close()


def on_postgresql(home: Path, url: str, provider: Upstream) -> Gateway:
    """A gateway, not started, whose ledger is there."""
    local = {"dialect": "openai", "base_url": provider.url, "keys": ["k"], "internal": True}
    config = {"providers": {"local": local}, "prices": {"local/*": PRICE}, "ledger": url, "secrets": SECRETS}
    served = Gateway(home, config, port=steady_port())
    served.run("migrate")
    return served


@pytest.mark.slow
def test_calls_go_on_without_the_ledger_and_their_rows_come_later(tmp_path: Path, sql: tuple[str, Sql]) -> None:
    url, server = sql
    with upstream() as provider:
        provider.reply(metered(delay=0.02, gap=0.02))
        served = on_postgresql(tmp_path, url, provider)
        key, other = served.key(), served.key()
        try:
            served.start()

            def make(number: int) -> Body:
                return chat(f"sql-{number}") | ({"stream": True} if number % 2 else {})

            with load(served.port, key, make, callers=4) as running:
                wait_for(lambda: len(running.delivered()) > 50)
                server.stop()
                during = len(running.delivered())
                wait_for(lambda: len(running.delivered()) > during + 200)
                stranger = httpx2.post(served.url + CHAT, json=chat("x-0"), headers=bearer(other))
                assert (stranger.status_code, stranger.json()["error"]["code"]) == (503, "auth_unavailable")
                assert httpx2.get(f"{served.url}/readyz").status_code == 200
                assert served.metric("llmguard_spool_records_unshipped") > 200
                server.start()
                running.stop()
            began = time.monotonic()
            wait_for(lambda: served.metric("llmguard_spool_records_unshipped") == 0, 30)
            took = time.monotonic() - began
            assert all(outcome.delivered for outcome in running.outcomes)
            rows = {row["event_id"]: row for row in entries(served)}
            assert len(rows) == len(entries(served)) == len(running.outcomes)
            for outcome in running.outcomes:
                assert rows[outcome.request_id]["usage_source"] == "provider"
            assert served.stop() == 0
            assert list((tmp_path / "spool").iterdir()) == []
            print(f"{len(rows)} rows; all in the ledger {took:.1f} s after it was back")
        finally:
            if served.process is not None:
                served.stop(signal.SIGKILL)


@pytest.mark.slow
def test_a_start_without_the_ledger_is_not_ready_and_never_says_that_a_key_is_wrong(
    tmp_path: Path, sql: tuple[str, Sql]
) -> None:
    url, server = sql
    with upstream() as provider:
        provider.reply(metered(delay=0))
        served = on_postgresql(tmp_path, url, provider)
        key = served.key()
        server.stop()
        try:
            served.launch()
            wait_for(lambda: answers(served) is not None)
            assert answers(served) == 503
            for _ in range(5):
                reply = httpx2.post(served.url + CHAT, json=chat("boot-0"), headers=bearer(key))
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, "auth_unavailable")
            server.start()
            wait_for(lambda: answers(served) == 200)
            reply = httpx2.post(served.url + CHAT, json=chat("boot-1"), headers=bearer(key))
            assert reply.status_code == 200
            assert entry_of(served, end_user="boot-1")["usage_source"] == "provider"
        finally:
            served.stop()


def answers(served: Gateway) -> int | None:
    """The status of `/readyz`, None while nobody listens."""
    try:
        return httpx2.get(f"{served.url}/readyz", timeout=5).status_code
    except httpx2.TransportError:
        return None
