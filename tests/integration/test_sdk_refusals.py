"""What a caller over its budget hears, through the official SDKs: once, in full, and without a call to the provider.

Every team has a cent an hour and every token costs $5 a million, so 2,000 tokens are a cent.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import anthropic
import httpx2
import openai
import pytest
import sqlalchemy as sa
from google import genai

from llmguard.guard import Guard
from llmguard.ledger.models import entries
from tests.support.gateway import Gateway, gateway
from tests.support.sdks import Sdks, sdks
from tests.support.upstream import Answer, Seen, Upstream, answer, upstream

HELLO = [{"role": "user", "content": "Hello"}]
HOUR_MS = 3_600_000
ZONE = "UTC" if datetime.now(UTC).minute < 45 else "Asia/Kolkata"
"""Hours begin on the half hour in India, so no test here sees one end."""


@dataclass(frozen=True)
class World:
    """A gateway before one provider of each family."""

    served: Gateway
    provider: Upstream
    key: Callable[[str], str]

    def calls(self) -> int:
        """How many requests have reached the provider."""
        return len(self.provider.requests)

    def refusals(self) -> int:
        """How many requests the gateway has refused."""
        return int(self.served.metric("llmguard_refusals_total"))

    def post(self, key: str, **fields: Any) -> httpx2.Response:
        """A chat call without an SDK."""
        body = {"model": "m", "messages": HELLO, "max_tokens": 100} | fields
        url = f"{self.served.url}/v1/chat/completions"
        return httpx2.post(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=30)


def billing(read: int, written: int, **how: Any) -> Callable[[Seen], Answer]:
    """A provider of every family that bills these tokens for any call."""
    chat = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]}
    chat |= {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    message |= {"content": [{"type": "text", "text": "ok"}]}
    content = {"candidates": [{"content": {"role": "model", "parts": [{"text": "ok"}]}, "finishReason": "STOP"}]}

    def reply(seen: Seen) -> Answer:
        if seen.target.startswith("/v1/chat"):
            usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
            return answer(json_body=chat | {"usage": usage}, **how)
        if seen.target.startswith("/v1/messages"):
            return answer(json_body=message | {"usage": {"input_tokens": read, "output_tokens": written}}, **how)
        usage = {"promptTokenCount": read, "candidatesTokenCount": written, "totalTokenCount": read + written}
        return answer(json_body=content | {"usageMetadata": usage}, **how)

    return reply


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with upstream() as provider:
        names = {"local": "openai", "claude": "anthropic", "google": "gemini"}
        common = {"base_url": provider.origin, "keys": ["k"], "internal": True}
        cent = {"scope": {"team": "*"}, "limit": "$0.01", "window": "hour", "timezone": ZONE}
        config = {
            "providers": {name: {"dialect": family, **common} for name, family in names.items()},
            "prices": {f"{name}/*": {"input": "$5/M", "output": "$5/M"} for name in names},
            "budgets": [{"name": "a-cent-an-hour", **cent}],
            "limits": [{"name": "slowly", "scope": {"team": "busy"}, "limit": "1/minute"}],
        }
        with gateway(tmp_path_factory.mktemp("refusals"), config) as served:
            ledger = Guard(str(served.path)).ledger()
            yield World(served, provider, lambda team: ledger.keys.create(team, "prod", "chat")[1])
            ledger.close()


def window_end() -> datetime:
    now = datetime.now(ZoneInfo(ZONE))
    return (now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)).astimezone(UTC)


def check_refusal(team: str, spent: str, said: dict[str, Any], headers: httpx2.Headers) -> None:
    """The `llmguard` object of a refusal, and that it tells SDKs not to try again."""
    assert said == {
        "scope": {"team": team},
        "rule": "a-cent-an-hour",
        "limit": "0.01",
        "spent": spent,
        "held": "0",
        "unit": "usd",
        "reset_at": window_end().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "request_id": headers["x-llmguard-request-id"],
    }
    assert headers["x-should-retry"] == "false"


def by_openai(sdk: Sdks) -> Any:
    return sdk.oai.chat.completions.create(model="m", messages=HELLO, max_tokens=100)


def by_anthropic(sdk: Sdks) -> Any:
    return sdk.ant.messages.create(model="m", messages=HELLO, max_tokens=100)


def by_genai(sdk: Sdks) -> Any:
    config = genai.types.GenerateContentConfig(max_output_tokens=100)
    return sdk.gem.models.generate_content(model="m", contents="Hello", config=config)


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(("spent", "code"), [("0.0095", "budget_insufficient"), ("0.01", "budget_exceeded")])
@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (by_openai, openai.RateLimitError),
        (by_anthropic, anthropic.RateLimitError),
        (by_genai, genai.errors.ClientError),
    ],
    ids=["openai", "anthropic", "genai"],
)
def test_the_call_that_would_pass_the_budget_is_refused_once_and_sent_to_nobody(
    world: World, ask: Callable[[Sdks], Any], error: type[Exception], spent: str, code: str, sync: bool
) -> None:
    team = f"{ask.__name__}-{spent}-{sync}"
    tokens = int(Decimal(spent) * 200_000)
    world.provider.reply(billing(100, tokens - 100))
    with sdks(world.served.url, world.key(team), sync=sync) as sdk:
        sdk.done(ask(sdk))
        rows, calls, refusals = len(world.served.wait_for_rows(1, team=team)), world.calls(), world.refusals()
        with pytest.raises(error) as caught:
            sdk.done(ask(sdk))
    reply: Any = caught.value.response  # type: ignore[attr-defined]
    if isinstance(caught.value, genai.errors.APIError):  # whose asynchronous client is aiohttp where that is installed
        status, said = caught.value.code, caught.value.details["error"]
    else:
        status, said = reply.status_code, reply.json()["error"]
    assert status == 429
    check_refusal(team, spent, said.pop("llmguard"), reply.headers)
    assert 0 <= int(reply.headers["retry-after"]) - (window_end() - datetime.now(UTC)).total_seconds() <= 5
    _check_shape(error, code, said)
    assert (world.calls(), world.refusals()) == (calls, refusals + 1)
    assert len(world.served.rows(team=team)) == rows == 1


def _check_shape(error: type[Exception], code: str, said: dict[str, Any]) -> None:
    """The error as each API writes it, without the `llmguard` object."""
    message = said.pop("message")
    assert "'a-cent-an-hour'" in message
    assert "of $0.01" in message
    if error is openai.RateLimitError:
        assert said == {"type": "insufficient_quota", "code": code, "param": None}
    elif error is anthropic.RateLimitError:
        assert said == {"type": "rate_limit_error", "details": {"error_code": code}}
    else:
        assert (said["code"], said["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert said["details"][0]["reason"] == code.upper()


def test_another_team_is_not_touched(world: World) -> None:
    world.provider.reply(billing(1_000, 1_000))
    poor, rich = world.key("poor"), world.key("rich")
    assert [world.post(key).status_code for key in (poor, poor, rich)] == [200, 429, 200]


def test_a_call_that_alone_exceeds_the_budget_is_forbidden(world: World) -> None:
    calls = world.calls()
    reply = world.post(world.key("verbose"), messages=[{"role": "user", "content": "word " * 3_000}])
    said = reply.json()["error"]
    assert (reply.status_code, said["code"], said["type"]) == (403, "request_exceeds_budget", "insufficient_quota")
    check_refusal("verbose", "0", said["llmguard"], reply.headers)
    assert "retry-after" not in reply.headers
    assert world.calls() == calls


def test_what_running_calls_hold_is_in_the_way_for_a_moment_only(world: World) -> None:
    key, calls = world.key("crowd"), world.calls()
    world.provider.reply(billing(10, 10, delay=2.0))
    first: list[httpx2.Response] = []
    running = threading.Thread(target=lambda: first.append(world.post(key, max_tokens=1_500)))
    running.start()
    world.provider.wait_for(lambda provider: len(provider.requests) == calls + 1)
    reply = world.post(key, max_tokens=1_500)
    running.join()
    said = reply.json()["error"]
    assert (first[0].status_code, reply.status_code, said["code"]) == (200, 429, "budget_contended")
    assert 1 <= int(reply.headers["retry-after"]) <= 5
    assert "x-should-retry" not in reply.headers
    assert (said["llmguard"]["spent"], Decimal(said["llmguard"]["held"]) > 0) == ("0", True)
    assert world.post(key, max_tokens=1_500).status_code == 200


def test_a_rate_limit_says_exactly_when_to_come_back(world: World) -> None:
    world.provider.reply(billing(1, 1))
    key = world.key("busy")
    admitted, refused = world.post(key), world.post(key)
    assert (admitted.status_code, refused.status_code) == (200, 429)
    said = refused.json()["error"]
    assert (said["code"], said["type"], said["llmguard"]["unit"]) == ("rate_limited", "rate_limit_error", "requests")
    assert 55 <= int(refused.headers["retry-after"]) <= 60
    assert "x-should-retry" not in refused.headers


def test_a_restart_forgets_no_spend_and_the_next_hour_admits_again(world: World) -> None:
    world.provider.reply(billing(1_000, 1_000))
    served, key = world.served, world.key("patient")
    assert [world.post(key).status_code for _ in range(3)] == [200, 429, 429]
    served.wait_for_rows(1, team="patient")
    assert served.stop() == 0
    report = json.loads(served.run("report", "--by", "team", "--json").stdout)
    (line,) = [row for row in report["rows"] if row["team"] == "patient"]
    assert (line["calls"], line["refused"], line["cost_usd"]) == (1, 2, "0.01")
    served.start()
    assert world.post(key).status_code == 429
    assert served.stop() == 0
    _an_hour_ago(served)
    served.start()
    assert [world.post(key).status_code for _ in range(2)] == [200, 429]


def _an_hour_ago(served: Gateway) -> None:
    """Make every recorded call one of the hour before."""
    ledger = Guard(str(served.path)).ledger()
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(entries).values(created_at=entries.c.created_at - HOUR_MS))
    ledger.rebuild_rollups()
    ledger.close()
