"""The quota store is away and rules say `local`: calls go on a small allowance, and the store hears of them later."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from llmguard.integrations.httpx import http_client
from tests.support.gateway import Gateway
from tests.support.inside import inside
from tests.support.load import CHAT, metered
from tests.support.sight import check_store, entries
from tests.support.upstream import upstream
from tests.support.valkey import ValkeyServer

PRICE = {"input": "$5/M", "output": "$15/M", "output_max": 4_096}
BUDGETS = [{"name": "team", "scope": {"team": "*"}, "limit": "$10", "window": "total"}]
DECIDED = 0.5
"""Seconds in which a call is decided, its provider's answer included."""


def until(good: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def post(served: Gateway, key: str, user: str) -> tuple[int, float]:
    """A call that may cost $0.001 or a little more: its status, and the seconds it took."""
    body = {"model": "gpt-4o", "user": user, "max_tokens": 60, "messages": [{"role": "user", "content": "Hello!"}]}
    began = time.monotonic()
    reply = httpx2.post(served.url + CHAT, json=body, headers={"authorization": f"Bearer {key}"}, timeout=30)
    return reply.status_code, time.monotonic() - began


def answers(served: Gateway) -> bool:
    try:
        return httpx2.get(f"{served.url}/readyz", timeout=2).status_code in (200, 503)
    except httpx2.TransportError:
        return False


def test_a_gateway_spends_its_allowance_once_whatever_is_restarted_and_settles_it_later(tmp_path: Path) -> None:
    with upstream() as provider, ValkeyServer() as store:
        provider.reply(metered(delay=0))
        config: dict[str, Any] = {
            "providers": {"local": {"dialect": "openai", "base_url": provider.origin, "keys": ["k"], "internal": True}},
            "prices": {"local/*": PRICE},
            "budgets": BUDGETS,
            "store": store.tcp_url,
            "store_down": {"budget": "$0.005"},
        }
        served = Gateway(tmp_path, config)
        try:
            served.start()
            key = served.key()
            assert post(served, key, "before-0")[0] == 200
            store.freeze()
            found = [post(served, key, f"away-{number}") for number in range(10)]
            statuses = [status for status, _ in found]
            assert 3 <= statuses.count(200) <= 5
            assert statuses == sorted(statuses)
            assert set(statuses) == {200, 503}
            assert max(took for _, took in found) < DECIDED
            served.stop(signal.SIGKILL)
            served.launch()
            until(lambda: answers(served))
            assert {post(served, key, f"again-{number}")[0] for number in range(3)} == {503}
            store.thaw()
            until(lambda: httpx2.get(f"{served.url}/readyz", timeout=5).status_code == 200)
            until(lambda: post(served, key, "after-0")[0] == 200, 5)
            served.wait_for_rows(2 + statuses.count(200))
            check_store(store, sum(entry["cost_nano"] for entry in entries(served)), 30)
        finally:
            store.thaw()
            if served.process is not None:
                served.stop(timeout=15)


def test_calls_within_a_process_go_on_too(tmp_path: Path) -> None:
    with (
        ValkeyServer() as store,
        inside(tmp_path, store=store.tcp_url, budgets=BUDGETS, store_down={"calls": "30/1h"}) as world,
    ):
        with http_client(guard=world.guard, team="search", env="prod", feature="chat") as client:

            def call() -> tuple[int, float]:
                body = {"model": "m", "max_tokens": 60, "messages": [{"role": "user", "content": "Hello!"}]}
                began = time.monotonic()
                reply = client.post(f"{world.provider.origin}/v1/chat/completions", json=body)
                return reply.status_code, time.monotonic() - began

            assert call()[0] == 200
            store.freeze()
            try:
                found = [call() for _ in range(31)]
            finally:
                store.thaw()
        assert [status for status, _ in found] == [200] * 30 + [503]
        assert max(took for _, took in found) < DECIDED
        rows = world.rows(31)
        check_store(store, sum(row["cost_nano"] for row in rows), 30)
