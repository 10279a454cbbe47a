"""Alerts of real gateways at a real receiver: each threshold once a window, whoever serves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx2

from llmguard.config.secrets import fresh
from llmguard.sinks.webhook import SIGNATURE, alert_key, signature
from tests.support.gateway import Gateway, gateway
from tests.support.receiver import receiver
from tests.support.valkey import ValkeyServer

MODEL = "sandbox/usage-100000-100000"
"""A call costs 20 cents."""


def ask(served: Gateway, key: str, text: str = "Hello") -> int:
    call = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 10}
    url = f"{served.url}/v1/chat/completions"
    return httpx2.post(url, json=call, headers={"authorization": f"Bearer {key}"}, timeout=60).status_code


def test_a_threshold_is_told_once_by_whichever_process_sees_it(tmp_path: Path) -> None:
    signing = fresh()
    config: dict[str, Any] = {
        "ledger": f"sqlite:///{tmp_path / 'shared.db'}",
        "secrets": {"pepper": fresh(), "signing": [signing], "cache": [fresh()]},
        "providers": {"sandbox": {"dialect": "sandbox"}},
        "budgets": [
            {"name": "day", "scope": {"team": "search"}, "limit": "$1", "window": "day", "alert_at": ["50%", "90%"]},
            {"name": "silent", "scope": {}, "limit": "$2", "window": "total", "alert_at": []},
            {"name": "usual", "scope": {"env": "prod"}, "limit": "$1", "window": "total"},
        ],
    }
    with ValkeyServer() as store, receiver() as there, receiver() as trips:
        config["store"] = store.tcp_url
        config["alerts"] = [
            {"url": f"{there.url}/x", "on": "budget", "internal": True},
            {"url": f"{trips.url}/x", "on": ["trip", "drift"], "internal": True},
        ]
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with gateway(tmp_path / "a", config) as one, gateway(tmp_path / "b", config) as two:
            key = one.key()
            statuses = [ask(served, key) for served in (one, two, one, two, one, two)]
            assert statuses.count(200) >= 4
            got = there.wait(lambda found: len(found) == 4)
            first = time.time()
            for served in (one, two, one, two):
                assert ask(served, key) == 429
            one.rows()
        assert time.time() - first < 30
        assert trips.got == []
    texts = sorted((got.alert["data"]["rule"], got.alert["data"]["threshold"]) for got in there.got)
    assert texts == [("day", "0.5"), ("day", "0.9"), ("usual", "0.8"), ("usual", "1")]
    assert len({got.alert["id"] for got in got}) == 4
    for one_got in got:
        sent = one_got.headers[SIGNATURE]
        seconds = int(sent.partition(",")[0].removeprefix("t="))
        assert sent == signature([alert_key(signing.encode())], seconds, one_got.body)


def test_a_trip_is_one_alert_one_row_one_record_and_one_count_of_all_processes(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "ledger": f"sqlite:///{tmp_path / 'shared.db'}",
        "secrets": {"pepper": fresh(), "signing": [fresh()], "cache": [fresh()]},
        "providers": {"sandbox": {"dialect": "sandbox"}},
        "runaway": {"mode": "enforce", "identical_prompts": "3/10m"},
    }
    with ValkeyServer() as store, receiver() as there:
        config["store"] = store.tcp_url
        config["alerts"] = [{"url": there.url, "internal": True}]
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        with gateway(tmp_path / "a", config) as one, gateway(tmp_path / "b", config) as two:
            key = one.key()
            assert [ask(one, key) for _ in range(4)] == [200, 200, 200, 403]
            tripped = time.monotonic()
            (got,) = there.wait(lambda found: len(found) == 1)
            assert time.monotonic() - tripped < 10
            assert [ask(served, key) for served in (one, two, two, two, one)] == [403] * 5
            counted = sum(served.metric("llmguard_trips_total") for served in (one, two))
            (row,) = json.loads(one.run("trips", "list", "--json").stdout)
            records = json.loads(two.run("audit", "tail", "--json").stdout)
            log = one.log.read_text()
            assert one.run("trips", "reset", row["name"]).stdout == f"{row['name']} may run again\n"
            deadline = time.monotonic() + 5
            while ask(two, key, "Something else") != 200:  # refusals are remembered for two seconds
                assert time.monotonic() < deadline
    assert len(there.got) == counted == 1
    assert (got.alert["type"], got.alert["id"]) == ("trip", row["id"])
    assert (row["rule"], row["limit"], row["seen"], row["team"]) == ("runaway.identical_prompts", "3", "4", "search")
    changes = [record["action"] for record in records if record["action"] != "config.changed"]
    assert changes == ["key.create", "trip"]
    assert log.count(" ERROR ") == 1
    assert got.alert["text"] in log
