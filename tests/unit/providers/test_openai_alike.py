"""Calls with the same settings are understood alike: nobody can tell a remembered understanding from a fresh one."""

from __future__ import annotations

import json
import random
from typing import Any

from llmguard.core.call import Call, Request
from llmguard.errors import BadCall
from llmguard.providers.openai_chat import OpenAIChat

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
VALUES = (None, True, False, 0, 1, 1.0, 2, 7.5, "", "auto", "flex", "none", [], {}, ["audio"], {"include_usage": True})
VALUES += ({"include_usage": 1}, {"include_usage": False, "x": [1]}, "x" * 300)
NAMES = ("max_tokens", "max_completion_tokens", "stream", "stream_options", "service_tier", "store", "n", "user")
NAMES += ("safety_identifier", "reasoning_effort", "temperature", "modalities", "models", "prompt", "best_of", "tools")
MESSAGES: tuple[Any, ...] = (
    [{"role": "user", "content": "hello"}],
    [{"role": "user", "content": "a longer one"}, {"role": "assistant", "content": "yes", "tool_calls": [{"id": "x"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
    [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}],
    [{"role": "assistant", "content": "spoken", "audio": {"id": "audio_1"}}],
    [{"role": "user", "content": 1}],
    [],
    None,
    "no list",
)


def parsed(dialect: OpenAIChat, request: Request, endpoint: str) -> Any:
    try:
        call = dialect.parse(request, endpoint, None)
    except BadCall as bad:
        return bad.status, bad.code, bad.param, str(bad)
    return {name: getattr(call, name) for name in Call.__struct_fields__}


def test_a_call_is_understood_alike_whatever_came_before_it() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    practised = OpenAIChat()
    answers = set()
    for _ in range(4_000):
        names = rng.sample(NAMES, rng.choice((0, 1, 1, 2, 3)))
        doc = {"model": rng.choice(("gpt-4o", "o3", "grok-4")), "messages": rng.choice(MESSAGES[:2] + MESSAGES)}
        doc |= {name: rng.choice(VALUES) for name in names}
        body = json.dumps(doc).encode()
        headers = {"x": str(rng.random())}
        request = Request(rng.choice(("POST", "PUT")), f"/p{rng.random()}", f"q={rng.random()}", headers, body)
        endpoint = rng.choice((CHAT, CHAT, TEXT))
        found = parsed(practised, request, endpoint)
        assert found == parsed(OpenAIChat(), request, endpoint), doc
        answers.add(type(found))
    assert answers == {dict, tuple}


def test_remembered_calls_share_nothing_that_changes() -> None:
    dialect = OpenAIChat()
    request = Request("POST", CHAT, "", {}, b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    first, second, third = (dialect.parse(request, CHAT, None) for _ in range(3))
    first.memo["a"] = second.memo["b"] = 1
    first.metadata["a"] = second.metadata["b"] = "1"
    first.op = second.op = "free"
    assert (third.memo, third.metadata, third.op) == ({}, {}, "generate")
    assert dialect.parse(request, CHAT, None).memo == {}


def test_what_is_remembered_is_bounded() -> None:
    dialect = OpenAIChat()
    for number in range(1_100):
        body = b'{"model":"m%d","messages":[{"role":"user","content":"x"}]}' % number
        dialect.parse(Request("POST", CHAT, "", {}, body), CHAT, None)
    assert 0 < len(dialect._understood) <= 1_024
