"""Commands beside a gateway whose budgets are in a store on the network."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from llmguard.cli.root import app
from llmguard.core.money import nano_from_usd
from llmguard.core.moves import Charge, Truth
from llmguard.errors import StoreUnavailable
from llmguard.stores.redis import RedisStore
from llmguard.stores.redis.levels import read_levels
from tests.support.gateway import Gateway, gateway
from tests.support.valkey import ValkeyServer

BUDGETS = [
    {"name": "all", "scope": {}, "limit": "$1", "window": "day"},
    {"name": "each", "scope": {"team": "*"}, "limit": "$1", "window": "total"},
]


@pytest.fixture
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def config(store: ValkeyServer) -> dict[str, Any]:
    return {"providers": {"sandbox": {"dialect": "sandbox"}}, "store": store.tcp_url, "budgets": BUDGETS}


def command(served: Gateway, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--config", str(served.path)])
    assert result.exit_code == code, result.output
    return result


def levels(served: Gateway) -> dict[str, dict[str, Any]]:
    rows = json.loads(command(served, "budgets", "list", "--json").stdout)
    return {row["rule"]: row for row in rows}


def ask(served: Gateway, key: str, model: str) -> None:
    body = {"model": f"sandbox/{model}", "messages": [{"role": "user", "content": "Hello"}]}
    try:
        httpx2.post(f"{served.url}/v1/chat/completions", json=body, headers={"x-api-key": key}, timeout=60)
    except httpx2.TransportError:
        assert model == "hang"


def test_live_calls_are_held_and_a_dead_process_s_calls_are_charged(tmp_path: Path, store: ValkeyServer) -> None:
    with gateway(tmp_path, config(store)) as served:
        key = served.key()
        ask(served, key, "usage-1000-500")
        served.wait_for_rows(1)
        waiting = threading.Thread(target=ask, args=(served, key, "hang"))
        waiting.start()
        deadline = time.monotonic() + 20
        while (found := levels(served))["all"]["held"] == "0" and time.monotonic() < deadline:
            time.sleep(0.05)
        for rule in ("all", "each"):
            row = found[rule]
            settled, held, remaining = (nano_from_usd(row[name]) for name in ("settled", "held", "remaining"))
            assert (row["settled"], row["orphan"]) == ("0.0015", "0")
            assert held > 0
            assert settled + held + remaining == nano_from_usd("1")
        assert (found["unattributed-team"]["settled"], found["unattributed-team"]["held"]) == ("0", "0")
        assert "ok       clock: " in command(served, "doctor").stdout

        served.stop(signal.SIGKILL)
        waiting.join(10)
        total = json.loads(command(served, "report", "--json").stdout)["total"]
        assert total["calls"] == 2
        assert nano_from_usd(total["cost_usd"]) == settled + held
        for rule in ("all", "each"):
            row = levels(served)[rule]
            assert (row["settled"], row["orphan"], row["held"]) == (total["cost_usd"], "0", "0")


def test_a_store_that_is_away_or_would_lose_spend(tmp_path: Path, store: ValkeyServer) -> None:
    served = Gateway(tmp_path, config(store))
    with store.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    refused = command(served, "serve", code=2)
    assert "has maxmemory-policy allkeys-lru and may throw spend away; set it to noeviction" in refused.stderr
    assert refused.stderr.count("\n") == 1

    store.kill()
    listed = command(served, "budgets", "list", "--json")
    assert {row["rule"]: (row["settled"], row["held"]) for row in json.loads(listed.stdout)} == {
        "all": ("0", None),
        "unattributed-team": ("0", None),
    }
    assert f"quota store 127.0.0.1:{store.port} did not answer" in listed.stderr
    report = command(served, "report", "--json")
    assert json.loads(report.stdout)["rows"] == []
    assert "records of dead processes may be missing until it does" in report.stderr


def test_levels_of_a_store_that_is_cold_loaded_and_away(store: ValkeyServer) -> None:
    names = ["usd|total|0|", "tokens|total|0|team=a"]
    assert read_levels(store.tcp_url, names) is None
    filled = RedisStore(store.tcp_url, grace_ms=0)
    assert filled.load(lambda: Truth([Charge(names[0], 5_000_000_000_000_000, 0)], []))
    filled.close()
    found = read_levels(store.tcp_url, names)
    assert found is not None
    assert {name: (level.settled, level.orphan, level.held, level.exposure) for name, level in found.items()} == {
        names[0]: (5_000_000_000_000_000, 0, 0, 0)
    }
    assert read_levels(store.tcp_url, []) == {}
    store.kill()
    with pytest.raises(StoreUnavailable):
        read_levels(store.tcp_url, names)
