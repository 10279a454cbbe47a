"""Embeddings: inputs of text and of tokens, usage, no output."""

import json
from typing import Any

import pytest

from llmguard.core.call import Call, Edits
from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.errors import BadCall
from llmguard.providers.openai_embeddings import OpenAIEmbeddings
from tests.support.openai_traffic import request

DIALECT = OpenAIEmbeddings()
PATH = "/v1/embeddings"


def parse(value: Any, **fields: Any) -> Call:
    body = json.dumps({"model": "text-embedding-3-small", "input": value, **fields}).encode()
    return DIALECT.parse(request(body, PATH), PATH, None)


@pytest.mark.parametrize(
    ("value", "texts", "tokens"),
    [
        ("Hello", ["Hello"], 0),
        (["a", "b"], ["a", "b"], 0),
        ([1, 2, 3], [], 3),
        ([[1, 2], [3]], [], 3),
        (["a", [1, 2]], ["a"], 2),
        ([], [], 0),
        (None, [], 0),
    ],
)
def test_inputs(value: Any, texts: list[str], tokens: int) -> None:
    call = parse(value, user="u")
    assert (call.dialect, call.model, call.end_user) == ("openai_embeddings", "text-embedding-3-small", "u")
    assert (call.generates, call.stream, call.prompt_bytes) == (False, False, len(call.body))
    assert (list(DIALECT.texts(call)), DIALECT.overhead_tokens(call)) == (texts, tokens)
    assert call.prompt_bytes >= tokens


@pytest.mark.parametrize("value", [1, True, {}, [1.5], [None], [True], [{}]])
def test_other_inputs_are_refused(value: Any) -> None:
    with pytest.raises(BadCall) as caught:
        parse(value)
    assert (caught.value.status, caught.value.param) == (400, "input")


def test_only_the_model_is_rewritten() -> None:
    call = parse("Hi", dimensions=8)
    assert DIALECT.rewrite(call, Edits(max_tokens=5, ask_usage=True)) is call.body
    assert json.loads(DIALECT.rewrite(call, Edits(model="m"))) == {"model": "m", "input": "Hi", "dimensions": 8}
    in_path = DIALECT.parse(request(b'{"input":"Hi"}', PATH), PATH, "deployment")
    assert DIALECT.rewrite(in_path, Edits(model="m")) is in_path.body


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0)),
        ({"total_tokens": 7}, Usage(7, 0)),
        ({}, None),
        (None, None),
    ],
)
def test_usage(usage: Any, expected: Usage | None) -> None:
    reader = DIALECT.reader(parse("Hi"), asked_usage=False)
    body = {"object": "list", "data": [{"embedding": [0.1, 0.2]}], "model": "m-1", "usage": usage}
    reader.whole(200, "application/json", json.dumps(body).encode())
    assert (reader.usage, reader.model, reader.generated) == (expected, "m-1", 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"nonsense"])
def test_odd_replies_leave_usage_open(body: bytes) -> None:
    reader = DIALECT.reader(parse("Hi"), asked_usage=False)
    reader.whole(200, "text/plain", body)
    assert reader.usage is None


def test_a_stream_passes_unread() -> None:
    reader = DIALECT.reader(parse("Hi"), asked_usage=False)
    chunk = b'data: {"a":1}\n\n'
    assert reader.feed(chunk) is chunk
    assert reader.cut(Refuse("budget_exceeded", 429, "no"), "r") == b""


def test_a_refusal() -> None:
    error = json.loads(DIALECT.refusal(Refuse("budget_exceeded", 429, "no"), "r"))["error"]
    assert (error["code"], error["type"]) == ("budget_exceeded", "insufficient_quota")
