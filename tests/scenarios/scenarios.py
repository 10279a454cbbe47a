"""The scenarios, each with what must be heard and recorded at every door. The names are also the names of teams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.scenarios.calls import ANY, MARK, Call, Scenario, Sees
from tests.scenarios.doors import Door
from tests.scenarios.replies import (
    CLAUDE,
    COST,
    GONE,
    GOOD,
    OK,
    REPLY,
    STREAMED,
    WHOLE,
    asked,
    chat,
    claude,
    embedding,
    estimated,
    free,
    kept_response,
    row,
    stream_of,
)
from tests.support.replies import chat_stream
from tests.support.upstream import Answer, answer

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

_FINAL = {"x-should-retry": "false"}
_MISS, _HIT, _BYPASS = ({"x-llmguard-cache": value} for value in ("miss", ANY, "bypass"))
_KEPT = {"cache": "hit", "cost_nano": 0, "saved_nano": COST, "input_tokens": 0, "output_tokens": 0}
_UNKNOWN = {
    "model_served": "m",
    "input_tokens": 0,
    "output_tokens": 0,
    "cost_nano": 10_000_000,
    "usage_source": "counted",
    "cache": None,
    "finish_reason": None,
}
_TIMED = frozenset({"output_tokens", "cost_nano", "cost_output_nano", "bytes_out"})
_SILENT = answer(json_body={}, fault="hang")
_FIRST = (b"wwwww0",)
_BROKEN_ELSEWHERE = {
    "inside": Sees(code="ReadError", holds=_FIRST),
    **{f"layers-{number}": Sees(holds=_FIRST) for number in (1, 2, 3)},  # Starlette's middleware ends it
}
_NOWHERE = Sees(404, "unknown_route")
_OWN = f"resp{MARK}"

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("admitted", "A call with everything in order.", (Call(GOOD, chat(user="kim")),), (row(end_user="kim"),)),
    Scenario(
        "streamed", "The same as a stream.", (Call(STREAMED, chat(stream=True)),), (row(stream=True),), stream_of(3)
    ),
    Scenario(
        "alias",
        "A model by a name of the operator's.",
        (Call(GOOD, chat(model="nice")),),
        (row(model_requested="nice"),),
    ),
    Scenario(
        "embeddings",
        "Another API of the same provider.",
        (
            Call(
                Sees(headers=OK | {"x-llmguard-cost-usd": "0.0045"}),
                {"model": "m", "input": MARK},
                path="/v1/embeddings",
            ),
        ),
        (
            row(
                endpoint="/v1/embeddings",
                dialect="openai_embeddings",
                input_tokens=900,
                output_tokens=0,
                cost_nano=4_500_000,
                finish_reason=None,
            ),
        ),
        embedding,
    ),
    Scenario(
        "other-family",
        "Another provider's API.",
        (
            Call(
                Sees(body=CLAUDE, headers={"x-llmguard-target": "claude/m", "x-llmguard-cost-usd": "0.0065"}),
                chat(),
                path="/v1/messages",
            ),
        ),
        (
            row(
                provider="claude",
                endpoint="/v1/messages",
                dialect="anthropic_messages",
                model_served="m",
                finish_reason="end_turn",
            ),
        ),
        claude,
    ),
    Scenario(
        "large-reply",
        "A whole reply of 700 kB, which is not held back.",
        (Call(Sees(headers=OK, lacks=("x-llmguard-cost-usd",), holds=(b"x" * 700_000,)), chat()),),
        (row(finish_reason=None),),
        answer(json_body=REPLY | {"padding": "x" * 700_000}, cuts=[100_000]),
    ),
    Scenario(
        "max-tokens-lowered",
        "A call that names no maximum, where not much money is left.",
        (Call(Sees(body=WHOLE, headers={"x-llmguard-max-tokens": ANY}), chat(max_tokens=None)),),
        (row(),),
    ),
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
        "A call that costs more than its whole budget.",
        (Call(Sees(403, "request_exceeds_budget", headers=_FINAL, lacks=("retry-after",)), chat()),),
        (),
        forwarded=0,
    ),
    Scenario(
        "budget-spent",
        "A second call after the first has spent all.",
        (Call(GOOD, chat()), Call(Sees(429, "budget_exceeded", headers=_FINAL), chat(n=1))),
        (row(),),
    ),
    Scenario(
        "refused-by-rate",
        "A second call where one an hour is allowed.",
        (Call(GOOD, chat()), Call(Sees(429, "rate_limited", headers={"retry-after": ANY}), chat(n=1))),
        (row(),),
    ),
    Scenario(
        "refused-by-concurrency",
        "A second call during the first where one at a time is allowed.",
        (Call(STREAMED, chat(stream=True), meanwhile=Call(Sees(429, "rate_limited"), chat())),),
        (row(stream=True),),
        stream_of(3, gap=0.3),
    ),
    Scenario(
        "stream-cut",
        "A stream that spends what is left.",
        (Call(Sees(holds=(b"request_exceeds_budget", b"data: [DONE]\n\n")), chat(stream=True, max_tokens=None)),),
        (estimated(stream=True, interrupted="budget_cut"),),
        Answer(200, [("content-type", "text/event-stream")], chat_stream(200, length=400), "chunked", gap=0.01),
        timed=_TIMED,
    ),
    Scenario(
        "hang-up-before-head",
        "The caller leaves before the reply's head.",
        (Call(GONE, chat(), leaves=b""),),
        (estimated(status=0, model_served="m"),),
        Answer(200, [("content-type", "application/json")], [b"{}"], delay=30),
    ),
    Scenario(
        "hang-up-in-whole-reply",
        "The caller leaves while a whole reply trickles in.",
        (Call(GONE, chat(), leaves=b""),),
        (estimated(status=ANY, model_served="m"),),
        Answer(200, [("content-type", "application/json")], [b"[", *[b"1,"] * 300, b"1]"], gap=0.1),
        timed=_TIMED | {"status"},
    ),
    Scenario(
        "hang-up-in-silent-stream",
        "The caller leaves while a stream is silent.",
        (Call(GONE, chat(stream=True), leaves=b"wwwww0"),),
        (estimated(stream=True),),
        stream_of(4, fault="hang", after=300),
        timed=frozenset({"bytes_out"}),
    ),
    Scenario(
        "hang-up-in-stream",
        "The caller leaves in the midst of a stream.",
        (Call(GONE, chat(stream=True), leaves=b"wwwww1"),),
        (estimated(stream=True),),
        stream_of(400, gap=0.05),
        timed=_TIMED,
    ),
    Scenario(
        "cache-hit",
        "The same call again.",
        (Call(Sees(body=WHOLE, headers=_MISS), chat()), Call(Sees(body=WHOLE, headers=_HIT), chat())),
        (row(), row(**_KEPT)),
    ),
    Scenario(
        "cache-hit-streamed",
        "The same stream again.",
        (Call(STREAMED, chat(stream=True)), Call(STREAMED, chat(stream=True))),
        (row(stream=True), row(stream=True, **_KEPT)),
        stream_of(3),
    ),
    Scenario(
        "cache-passed-by",
        "The same call again, with `cache-control: no-store`.",
        (
            Call(GOOD, chat()),
            Call(
                Sees(body=WHOLE, headers={"x-llmguard-cache": "bypass"}), chat(), headers={"cache-control": "no-store"}
            ),
        ),
        (row(), row(cache=None)),
        forwarded=2,
    ),
    Scenario(
        "provider-fails",
        "The provider answers with an error of its own, which costs nothing and is not kept.",
        (Call(Sees(500, "broken"), chat()), Call(Sees(500, "broken"), chat())),
        (free(500), free(500)),
        answer(status=500, json_body={"error": {"message": "out of order", "code": "broken"}}),
        forwarded=2,
    ),
    Scenario(
        "provider-overloaded",
        "The provider asks for patience.",
        (Call(Sees(429, "slow", headers={"retry-after": "7"}), chat()),),
        (free(429),),
        answer(status=429, json_body={"error": {"message": "slow down", "code": "slow"}}, headers={"retry-after": "7"}),
    ),
    Scenario(
        "provider-silent",
        "The provider says nothing at all.",
        (
            Call(
                Sees(504, "upstream_timeout"),
                chat(),
                seen_elsewhere={"layers": Sees(500), "inside": Sees(0, "ReadTimeout")},
            ),
        ),
        (estimated(status=0, model_served="m", interrupted="upstream_failed"),),
        _SILENT,
    ),
    Scenario(
        "provider-breaks-off",
        "The provider's connection breaks in the midst of a stream.",
        (
            Call(
                Sees(code="RemoteProtocolError", holds=_FIRST),
                chat(stream=True),
                headers={"connection": "close"},  # servers close it in any case, some after the end of the reply
                seen_elsewhere=_BROKEN_ELSEWHERE,
            ),
        ),
        (estimated(stream=True, interrupted="upstream_failed"),),
        stream_of(4, fault="reset", after=300),
    ),
    Scenario(
        "unknown-payload",
        "A request that no dialect understands, at the operator's price.",
        (Call(Sees(body=b"sound"), asked(), path="/v1/audio/speech"),),
        (row(endpoint="/v1/audio/speech", dialect="unknown", **_UNKNOWN),),
        answer(body=b"sound", headers={"content-type": "audio/mpeg"}),
    ),
    Scenario(
        "invalid-body",
        "A body with a name that stands there twice, and one that is no JSON.",
        (
            Call(Sees(400, "invalid_json"), b'{"model": "m", "model": "n", "messages": []}'),
            Call(Sees(400, "invalid_json"), b"{no json"),
        ),
        (),
        forwarded=0,
    ),
    Scenario(
        "tenancy",
        "One team stores a response at the provider; another may not continue it.",
        (
            Call(Sees(holds=(b"resp_",)), asked(), path="/v1/responses"),
            Call(Sees(404, "object_not_found"), asked(previous_response_id=_OWN), path="/v1/responses", key="other"),
            Call(Sees(holds=(b"resp_",)), asked(previous_response_id=_OWN), path="/v1/responses"),
        ),
        (row(endpoint="/v1/responses", dialect="openai_responses", cache=None, finish_reason="completed"),) * 2,
        kept_response,
        forwarded=2,
    ),
    Scenario("head", "HEAD where POST is served.", (Call(Sees(404, body=b""), method="HEAD"),), (), forwarded=0),
    Scenario(
        "options",
        "OPTIONS where POST is served.",
        (Call(Sees(404, "unknown_route"), method="OPTIONS"),),
        (),
        forwarded=0,
    ),
    Scenario(
        "two-guards",
        "A second guard in the same process, with a ledger and a store of its own.",
        (Call(GOOD, chat()), Call(GOOD, chat(), second_guard=True)),
        (row(),),
        forwarded=2,
        second=(row(),),
    ),
)

BY_NAME: Mapping[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}

_WAITING = "code that waits for a reply cannot leave"
_UNHEARD = "a WSGI server tells an application that its caller is gone when it writes"
_PASSES = "what costs nothing passes as it is"
_ONE = "a Django project has one guard, by its settings"

NO_MEANING: Mapping[str, Mapping[str, str]] = {
    "alias": {"inside": "a client says a provider's own names"},
    "tenancy": {"inside": "what lies at the provider is the application's own"},
    "refused-by-key": {"inside": "the application's own code needs no key of the guard"},
    "refused-by-concurrency": {"flask-sync": "its one worker answers one call at a time"},
    "head": {"inside": _PASSES},
    "options": {"inside": _PASSES},
    "two-guards": {
        "proxy": "one process of `llmguard serve` has one guard",
        "django-asgi": _ONE,
        "django-wsgi": _ONE,
    },
    "hang-up-before-head": {
        "httpx2": _WAITING,
        "httpx": _WAITING,
        "layers-wsgi": _UNHEARD,
    },
    "hang-up-in-whole-reply": {
        "httpx2": _WAITING,
        "httpx": _WAITING,
        "layers-wsgi": _UNHEARD,
    },
    "hang-up-in-silent-stream": {
        "layers-wsgi": _UNHEARD,
    },
}
"""Where a scenario says nothing: by its name, then by a door's name or kind, with the reason."""


def no_meaning(door: Door, scenario: Scenario) -> str | None:
    """Why a scenario is not played at a door."""
    reasons = NO_MEANING.get(scenario.name, {})
    return reasons.get(door.name) or reasons.get(door.kind)
