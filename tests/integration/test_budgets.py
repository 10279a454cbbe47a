"""Budgets hold exactly under concurrency, can be used up, and are seen alike by store, ledger and caller."""

from __future__ import annotations

import asyncio
import json
from collections import Counter as Tallies
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from llmguard.core.call import Request
from llmguard.core.money import nano_from_usd
from llmguard.providers import registry
from llmguard.tokens import Counter
from tests.support.gateway import Gateway, free_port, gateway
from tests.support.upstream import Seen, Upstream, answer, upstream
from tests.support.valkey import ValkeyServer

PRICES = {"local/*": {"input": "$5/M", "output": "$15/M", "output_max": 128_000}}
PATH = "/v1/chat/completions"


def body_of(tokens: int, **more: Any) -> dict[str, Any]:
    """A chat request whose prompt counts exactly ``tokens``."""
    dialect, counter = registry.dialect("openai_chat", "openai"), Counter()

    def request(words: int) -> dict[str, Any]:
        return {"model": "gpt-4o", "messages": [{"role": "user", "content": "a" + " a" * words}]} | more

    def count(words: int) -> int:
        call = dialect.parse(Request("POST", PATH, "", {}, json.dumps(request(words)).encode()), PATH, None)
        return counter.count("gpt-4o", dialect.texts(call)) + dialect.overhead_tokens(call)

    found = request(tokens - count(0))
    assert count(tokens - count(0)) == tokens
    return found


def replying(prompt: int, output: int, delay: float = 0.0) -> Any:
    """A provider that answers every call with this usage."""
    reply = {
        "id": "chatcmpl-x",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
    }

    def reply_to(seen: Seen) -> Any:
        return answer(json_body=reply, delay=delay)

    return reply_to


def config(provider: Upstream, **more: Any) -> dict[str, Any]:
    local = {"dialect": "openai", "base_url": f"{provider.url}/v1", "keys": ["sk-local"], "internal": True}
    return {"providers": {"local": local}, "prices": PRICES} | more


async def many(served: Gateway, key: str, body: dict[str, Any], count: int) -> list[httpx2.Response]:
    """``count`` calls at once."""
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(limits=limits, timeout=60, headers={"authorization": f"Bearer {key}"}) as client:
        return list(await asyncio.gather(*(client.post(served.url + PATH, json=body) for _ in range(count))))


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


def strict_tokens() -> list[dict[str, Any]]:
    rule = {"scope": {"team": "*"}, "limit": "100k tokens", "window": "day", "overshoot": "0%"}
    return [{"name": "strict", **rule}]


def check_exactly_a_hundred(served: Gateway, provider: Upstream, key: str) -> None:
    provider.reply(replying(900, 100, delay=0.3))
    replies = asyncio.run(many(served, key, body_of(900, max_tokens=100), 500))
    answers = Tallies((reply.status_code, reply.json().get("error", {}).get("code")) for reply in replies)
    assert sum(n for (status, _), n in answers.items() if status == 200) == 100, answers
    assert sum(n for (status, _), n in answers.items() if status == 429) == 400, answers
    assert len(provider.requests) == 100
    codes = {reply.json()["error"]["code"] for reply in replies if reply.status_code == 429}
    assert codes <= {"budget_contended", "budget_exceeded"}
    rows = served.wait_for_rows(100)
    assert len(rows) == 100
    assert sum(row["input_tokens"] + row["output_tokens"] for row in rows) == 100_000
    late = httpx2.post(served.url + PATH, json=body_of(900, max_tokens=100), headers={"authorization": f"Bearer {key}"})
    refused = late.json()["error"]
    assert (late.status_code, refused["code"], refused["type"]) == (429, "budget_exceeded", "insufficient_quota")
    assert (refused["llmguard"]["spent"], refused["llmguard"]["held"]) == ("100000", "0")
    assert late.headers["x-should-retry"] == "false"
    assert 0 < int(late.headers["retry-after"]) <= 86_400


def test_500_at_once_admit_exactly_100_in_memory(tmp_path: Path, provider: Upstream) -> None:
    with gateway(tmp_path, config(provider, budgets=strict_tokens())) as served:
        check_exactly_a_hundred(served, provider, served.key())


def test_500_at_once_admit_exactly_100_on_redis_with_four_processes(tmp_path: Path, provider: Upstream) -> None:
    with ValkeyServer() as store:
        port = free_port()
        server = {"host": "127.0.0.1", "port": port, "workers": 4}
        settings = config(provider, budgets=strict_tokens(), store=store.tcp_url, server=server)
        with gateway(tmp_path, settings, port=port) as served:
            check_exactly_a_hundred(served, provider, served.key())
            with Redis.from_url(store.tcp_url, decode_responses=True) as client:
                (bucket,) = list(client.scan_iter(match="*b:tokens*"))
                kept = client.hgetall(bucket)
            assert (kept["settled"], kept.get("held", "0"), kept.get("exposure", "0")) == ("100000", "0", "0")


def spend(served: Gateway, key: str, body: dict[str, Any], most: int) -> tuple[int, list[str]]:
    """Call after call until one is refused for good; returns how many passed and the refusals' codes."""
    passed, codes = 0, []
    with httpx2.Client(timeout=30) as client:
        for _ in range(most):
            reply = client.post(served.url + PATH, json=body, headers={"authorization": f"Bearer {key}"})
            if reply.status_code == 200:
                passed += 1
            else:
                codes.append(reply.json()["error"]["code"])
                if codes[-1] != "budget_contended":
                    break
    return passed, codes


def test_a_small_budget_on_a_large_model_can_be_used(tmp_path: Path, provider: Upstream) -> None:
    provider.reply(replying(900, 300))
    budgets = [{"name": "day", "scope": {"team": "*"}, "limit": "$1", "window": "day"}]
    with gateway(tmp_path, config(provider, budgets=budgets)) as served:
        passed, codes = spend(served, served.key(), body_of(900), 400)
        rows = served.wait_for_rows(passed)
        spent = sum(row["cost_nano"] for row in rows)
        assert spent == passed * (900 * 5_000 + 300 * 15_000)
        assert codes[-1:] in (["budget_insufficient"], ["budget_exceeded"])
        assert nano_from_usd("0.85") <= spent <= nano_from_usd("1.1")


def test_a_hundred_calls_without_max_tokens_all_fit_into_fifty_dollars(tmp_path: Path, provider: Upstream) -> None:
    provider.reply(replying(900, 300, delay=0.5))
    budgets = [{"name": "hour", "scope": {"team": "*"}, "limit": "$50", "window": "hour"}]
    with gateway(tmp_path, config(provider, budgets=budgets)) as served:
        replies = asyncio.run(many(served, served.key(), body_of(900), 100))
        assert Tallies(reply.status_code for reply in replies) == {200: 100}
        forwarded = [seen.json() for seen in provider.requests]
        assert all("max_tokens" in body or "max_completion_tokens" in body for body in forwarded)
        for reply in replies:
            assert int(reply.headers["x-llmguard-max-tokens"]) >= 4_096
