"""What callers of the scenarios send, what the provider replies, and how an ordinary call looks in the ledger."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.scenarios.calls import ANY, MARK, Row, Sees
from tests.support.replies import COST, REPLY, USAGE, chat_stream
from tests.support.upstream import SSE, Answer, Seen, answer

WHOLE = json.dumps(REPLY).encode()
ESTIMATED = "0 < cost <= cap"
"""Stands for a cost in a row that depends on how far a call came."""

OK = {"x-llmguard-request-id": ANY, "x-llmguard-target": "local/m"}
GOOD = Sees(body=WHOLE, headers=OK | {"x-llmguard-cost-usd": "0.0065"})
GONE = Sees()
"""Of somebody who hung up."""

_EVENTS = chat_stream(3, USAGE)
STREAMED = Sees(
    body=b"".join([*_EVENTS[:4], _EVENTS[5]]),  # without the usage that only the guard has asked for
    headers=OK | {"content-type": SSE},
    lacks=("x-llmguard-cost-usd",),
)

_CLAUDE_USAGE = {"input_tokens": 1_000, "output_tokens": 100}
_CLAUDE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": "end_turn"}
CLAUDE = json.dumps(_CLAUDE | {"usage": _CLAUDE_USAGE}).encode()


def chat(**more: Any) -> dict[str, Any]:
    """A chat call of a small price."""
    return {"model": "m", "messages": [{"role": "user", "content": f"hello {MARK}"}], "max_tokens": 200, **more}


def asked(**more: Any) -> dict[str, Any]:
    """A call of the APIs that take an input."""
    return {"model": "m", "input": MARK, **more}


def stream_of(words: int, **how: Any) -> Answer:
    """A chat stream."""
    return Answer(200, [("content-type", SSE)], chat_stream(words, USAGE), "chunked", **how)


def default(_seen: Seen) -> Answer:
    """What the provider says where a scenario does not care."""
    return answer(body=WHOLE)


def embedding(_seen: Seen) -> Answer:
    """A list without vectors."""
    usage = {"prompt_tokens": 900, "total_tokens": 900}
    return answer(json_body={"object": "list", "data": [], "model": "gpt-4o", "usage": usage})


def claude(_seen: Seen) -> Answer:
    """A message."""
    return answer(body=CLAUDE)


def kept_response(seen: Seen) -> Answer:
    """A response that is kept under a name made of what the request says of itself."""
    found = re.search(rb"_[a-z0-9-]+_at_[a-z0-9-]+_", seen.body)
    assert found is not None
    usage = {"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100}
    document = {"id": f"resp{found[0].decode()}", "object": "response", "status": "completed", "output": []}
    return answer(json_body=document | {"model": "gpt-4o", "usage": usage})


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


def estimated(**changes: Any) -> Row:
    """The entry of a call whose end nobody saw."""
    known = {name: value for name, value in row().items() if name not in ("input_tokens", "output_tokens")}
    told = {"usage_source": "estimated", "cost_nano": ESTIMATED, "finish_reason": None, "interrupted": "caller_gone"}
    return known | told | changes


def free(status: int) -> Row:
    """The entry of an error of the provider's."""
    nothing = {"input_tokens": 0, "output_tokens": 0, "cost_nano": 0}
    return row(status=status, model_served="m", finish_reason=None, **nothing)
