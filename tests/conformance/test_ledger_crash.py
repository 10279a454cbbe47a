"""kill -9 at any moment: what was acknowledged is in SQL exactly once, and nothing that was sent is free."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmguard.core.records import SettleRecord
from llmguard.ledger import Ledger
from llmguard.ledger.engine import reading
from tests.support.ledger import postgres_ledger, seed, sqlite_ledger

ROUNDS = 20
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    opening = sqlite_ledger(tmp_path) if request.param == "sqlite" else postgres_ledger()
    with opening as opened:
        yield opened


@contextmanager
def writer(directory: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.spool_writer", str(directory), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def killed_after(process: subprocess.Popen[str], child_seed: int, delay: float) -> list[list[str]]:
    """Let a child write for ``delay`` seconds, kill it, and return what it said."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{child_seed}\n")
    process.stdin.flush()
    said: list[list[str]] = []
    deadline = 0.0
    pid = 0
    while (words := process.stdout.readline().split()) != ["end"]:
        said.append(words)
        if words[0] == "pid":
            pid = int(words[1])
        if words[0] == "done" and not deadline:
            deadline = time.monotonic() + delay
        if deadline and pid and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pid, deadline = 0, float("inf")
    return said


def test_a_killed_process_loses_and_repeats_nothing(ledger: Ledger, tmp_path: Path) -> None:
    rng = random.Random(seed())
    directory = tmp_path / "spool"
    done: dict[str, int] = {}
    sent: set[str] = set()
    settled: list[SettleRecord] = []
    with writer(directory, ledger.url) as process:
        for _ in range(ROUNDS):
            for words in killed_after(process, rng.getrandbits(32), rng.random() * 0.2):
                if words[0] == "done":
                    done[words[1]] = int(words[2])
                elif words[0] == "sent":
                    sent.add(words[1])
            if rng.random() < 0.5:
                ledger.adopt(directory, on_settled=settled.extend, on_released=lambda rids: None)
    ledger.adopt(directory, on_settled=settled.extend, on_released=lambda rids: None)
    with reading(ledger.engine) as connection:
        found = connection.execute(sa.text("SELECT event_id, kind, cost_nano, interrupted FROM llmguard_entries")).all()
    kept = {str(row.event_id): row for row in found}
    assert len(done) > 10 * ROUNDS
    assert len(found) == len(kept)
    assert {row.kind for row in found} == {"POST"}
    assert {event_id: kept[event_id].cost_nano for event_id in done} == done
    assert sent <= kept.keys()
    interrupted = [row for row in found if row.interrupted]
    assert all(0 < row.cost_nano <= 50_000_000 for row in interrupted)
    assert not any(str(row.event_id) in done for row in interrupted)
    assert {str(row.event_id) for row in interrupted} <= {record.entry.event_id for record in settled}
    assert ledger.rollup_differences() == []
    assert [path.name for path in directory.iterdir()] == []
