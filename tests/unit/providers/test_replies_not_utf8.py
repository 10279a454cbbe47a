"""A reply whose text is not UTF-8, or whose members have other types, is read as far as it can be; nothing raises."""

from __future__ import annotations

import json

import pytest

from llmguard.core.call import Call, Request
from llmguard.core.ports import Dialect
from llmguard.core.usage import Usage
from llmguard.providers import registry

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CHAT = json.dumps({"id": "x", "model": "m", "choices": [{"index": 0, "message": {"content": "@"}}], "usage": USAGE})
BAD = CHAT.encode().replace(b"@", b"\xff\xfe")
FAMILIES = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "openai_embeddings": "openai",
    "anthropic_messages": "anthropic",
    "gemini_generate": "gemini",
}


def a_call(dialect: Dialect) -> Call:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "input": "x"}
    body["contents"] = [{"parts": [{"text": "x"}]}]
    if dialect.family == "gemini":
        del body["model"]
    request = Request("POST", "/e", "", {}, json.dumps(body).encode())
    return dialect.parse(
        request,
        "/v1/models/m:generateContent" if dialect.family == "gemini" else "/v1/chat/completions",
        None if dialect.family != "gemini" else "m",
    )


@pytest.mark.parametrize("name", ["openai_chat", "openai_embeddings"])
def test_usage_is_read_from_a_reply_that_is_not_utf8_throughout(name: str) -> None:
    dialect = registry.dialect(name, "openai")
    reader = dialect.reader(a_call(dialect), asked_usage=False)
    reader.whole(200, "application/json", BAD)
    assert reader.usage is not None
    assert (reader.usage.input_tokens, reader.usage.output_tokens) == (1, 2)
    assert isinstance(reader.usage, Usage)


@pytest.mark.parametrize(
    "data",
    [
        BAD,
        b"data: " + BAD + b"\n\n",
        b"\xff\n\n",
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n',
        b"data: [1,2]\n\ndata: null\n\n",
        b'event: message_start\ndata: {"type":"message_start","message":5}\n\n',
        b'data: {"type":"response.completed","response":"\xff"}\n\n',
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_reply_makes_a_reader_raise_or_lose_a_byte(name: str, data: bytes) -> None:
    dialect = registry.dialect(name, FAMILIES[name])
    call = a_call(dialect)
    dialect.reader(call, asked_usage=False).whole(200, "application/json", data)
    stream = dialect.reader(call, asked_usage=False)
    assert stream.feed(data) + stream.flush() == data
