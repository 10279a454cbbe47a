"""The scenarios, each with what must be heard and recorded at every door. The names are also the names of teams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.scenarios.calls import ANY, MARK, Call, Row, Scenario, Sees
from tests.support.replies import chat_stream
from tests.support.upstream import SSE, Answer, Seen, answer

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
COST = 1_000 * 5_000 + 100 * 15_000
REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
WHOLE = json.dumps(REPLY).encode()
EVENTS = chat_stream(3, USAGE)
HEARD_EVENTS = b"".join([*EVENTS[:4], EVENTS[5]])
"""A stream without the usage that only the guard has asked for."""
ESTIMATED = "0 < cost <= cap"

SECTIONS: Mapping[str, Any] = {
    "cache": {"exact": {"ttl": "1h"}},
    "audit": {"payloads": "full"},
    "budgets": [
        {"name": "all", "scope": {"team": "*", "env": "*"}, "limit": "$100", "window": "total"},
        {"name": "tiny", "scope": {"team": "refused-by-budget", "env": "*"}, "limit": "$0.0005", "window": "total"},
        {"name": "spent", "scope": {"team": "budget-spent", "env": "*"}, "limit": "$0.006", "window": "total"},
        {"name": "slim", "scope": {"team": "max-tokens-lowered", "env": "*"}, "limit": "$0.15", "window": "total"},
        {"name": "cut", "scope": {"team": "stream-cut", "env": "*"}, "limit": "$0.03", "window": "total"},
    ],
    "limits": [
        {"name": "once", "scope": {"team": "refused-by-rate", "env": "*"}, "limit": "1/hour"},
        {"name": "alone", "scope": {"team": "refused-by-concurrency", "env": "*"}, "limit": "1 concurrent"},
    ],
}

OK = {"x-llmguard-request-id": ANY, "x-llmguard-target": "local/m"}
GOOD = Sees(body=WHOLE, headers=OK | {"x-llmguard-cost-usd": "0.0065"})
STREAMED = Sees(body=HEARD_EVENTS, headers=OK | {"content-type": SSE}, lacks=("x-llmguard-cost-usd",))


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"hello {MARK}"}], "max_tokens": 200, **more}


def stream_of(words: int, **how: Any) -> Answer:
    return Answer(200, [("content-type", SSE)], chat_stream(words, USAGE), "chunked", **how)


def row(**changes: Any) -> Row:
    """The entry of a whole chat call that went well, with changes."""
    known = {
        "kind": "POST",
        "feature": "chat",
        "end_user": None,
        "provider": "local",
        "model_requested": "m",
        "model_served": "gpt-4o",
        "dialect": "openai_chat",
        "endpoint": "/v1/chat/completions",
        "stream": False,
        "status": 200,
        "input_tokens": 1_000,
        "output_tokens": 100,
        "cost_nano": COST,
        "saved_nano": 0,
        "usage_source": "provider",
        "cache": "miss",
        "finish_reason": "stop",
        "interrupted": None,
        "calls": 1,
    }
    return known | changes


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("admitted", "A call with everything in order.", (Call(GOOD, chat(user="kim")),), (row(end_user="kim"),)),
    Scenario("streamed", "The same as a stream.", (Call(STREAMED, chat(stream=True)),), (row(stream=True),), stream_of(3)),
    Scenario(
        "refused-by-key",
        "No key, and one that nobody has.",
        (
            Call(Sees(401, "invalid_api_key"), chat(), key="none"),
            Call(Sees(401, "invalid_api_key"), chat(), key="wrong"),
        ),
        (),
        forwarded=0,
    ),
    Scenario(
        "refused-by-budget",
        "A call that costs more than its budget.",
        (Call(Sees(403, "request_exceeds_budget", headers={"x-should-retry": "false"}), chat()),),
        (),
        forwarded=0,
    ),
    Scenario(
        "refused-by-rate",
        "A second call where one an hour is allowed.",
        (Call(GOOD, chat()), Call(Sees(429, "rate_limited", headers={"retry-after": ANY}), chat(n=1))),
        (row(),),
    ),
)


def default(seen: Seen) -> Answer:
    """What the provider says where a scenario does not care."""
    return answer(json_body=REPLY)


BY_NAME: Mapping[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}
NO_MEANING: Mapping[tuple[str, str], str] = {}
