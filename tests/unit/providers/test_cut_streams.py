"""Streams cut at every byte, as the official SDKs see them: whole events, then the end that the guard made of it.

Never half an event as data: where a part of one is with the caller, the SDK raises the refusal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors

from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.providers.anthropic_reply import MessagesReader
from llmguard.providers.gemini_reply import GeminiReader
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_responses import OpenAIResponses
from tests.support.decoders import Decoders, decoders
from tests.support.openai_traffic import request

REFUSE = Refuse("budget_exceeded", 429, "The budget is spent.", rule="search", unit="usd", limit=10**9)
RID = "0198"
SEED = random.SystemRandom().randrange(2**32)
DICE = random.Random(SEED)


@pytest.fixture(scope="module")
def sdks() -> Iterator[Decoders]:
    print(f"seed {SEED}")
    with decoders() as made:
        yield made


def dumped(doc: Any, escape: bool) -> str:
    return json.dumps(doc, ensure_ascii=escape, separators=(",", ":"))


def encoded(
    doc: dict[str, Any], *, name: bool = False, escape: bool = True, newline: str = "\n", space: str = " "
) -> bytes:
    head = f"event:{space}{doc['type']}{newline}" if name else ""
    return f"{head}data:{space}{dumped(doc, escape)}{newline}{newline}".encode()


def fed(reader: Reader, body: bytes) -> bytes:
    """The reader's output for a body in random pieces."""
    out, at = b"", 0
    while at < len(body):
        size = DICE.choice((1, 2, 5, 40, 4_000))
        out += reader.feed(body[at : at + size])
        at += size
    return out


def cuts(events: list[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
    """Every way to cut before the last byte: whole events before, those and the torn one, and the torn one alone."""
    for whole, event in enumerate(events):
        for at in range(len(event)):
            yield whole, b"".join(events[:whole]) + event[:at], event[:at]


def object_of(torn: bytes) -> bytes:
    """What is there of an event's JSON."""
    at = torn.find(b"{")
    return torn[at:].rstrip() if at >= 0 else b""


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# Chat.

CHAT_DOCS: list[dict[str, Any]] = [
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": 'é "😀\n'}}]},
    {
        "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}}],
        "x": [1.5],
    },
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]
DONE = b"data: [DONE]\n\n"
CHAT_STREAMS = {
    "plain": [*map(encoded, CHAT_DOCS), DONE],
    "unescaped": [encoded(doc, escape=False, newline="\r\n") for doc in CHAT_DOCS] + [DONE],
    "tight": [b": ping\n\n"] + [encoded(doc, space="") for doc in CHAT_DOCS[:2]] + [b"data:[DONE]\n\n"],
}


def chat_reader(*, asked: bool = False) -> Reader:
    dialect = OpenAIChat()
    call = dialect.parse(request(b'{"model":"m","messages":[],"stream":true}', ""), "/v1/chat/completions", None)
    return dialect.reader(call, asked_usage=asked)


@pytest.mark.parametrize("stream", CHAT_STREAMS)
def test_chat(sdks: Decoders, stream: str) -> None:
    events = CHAT_STREAMS[stream]
    for whole, sent, torn in cuts(events):
        reader = chat_reader()
        chunks, error = sdks.chat(fed(reader, sent) + reader.cut(REFUSE, RID))
        text, done = object_of(torn), is_json(object_of(torn))
        expected = [json.loads(object_of(one)) for one in events[:whole] if object_of(one)]
        expected += [json.loads(text)] if done else []
        assert [chunk.to_dict() for chunk in chunks][: len(expected)] == expected, sent
        if text and not done:
            assert isinstance(error, openai.APIError), sent
            assert (error.code, error.body["llmguard"]["request_id"]) == ("budget_exceeded", RID), sent
            assert len(chunks) == len(expected)
        else:
            assert error is None, sent
            assert (len(chunks), chunks[-1].llmguard["code"]) == (len(expected) + 1, "budget_exceeded"), sent


def test_chat_where_the_guard_asked_for_usage(sdks: Decoders) -> None:
    """Until its choices are seen, a chunk may be the one that is taken out; so nothing of it is with the caller."""
    events = CHAT_STREAMS["plain"]
    for whole, sent, torn in cuts(events):
        reader = chat_reader(asked=True)
        out = fed(reader, sent)
        chunks, error = sdks.chat(out + reader.cut(REFUSE, RID))
        done = is_json(object_of(torn)) and whole < 3
        is_torn = b'"choices":[{' in torn and not done
        assert (error is not None) == is_torn == (not done and out != b"".join(events[: min(whole, 3)])), sent
        assert len(chunks) == min(whole, 3) + done + (not is_torn), sent
        assert all(chunk.usage is None for chunk in chunks)


# Responses.

RESPONSE = {"id": "resp_1", "status": "in_progress", "model": "m", "output": []}
RESPONSE_DOCS: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
    {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "m", "delta": "é😀 \\"},
    {"type": "response.function_call_arguments.done", "sequence_number": 2, "arguments": '{"path":"/tmp/scratch"}'},
    {"type": "response.completed", "sequence_number": 3, "response": RESPONSE | {"status": "completed"}},
]
RESPONSE_STREAMS = {
    "named": [encoded(doc, name=True) for doc in RESPONSE_DOCS],
    "unescaped": [encoded(doc, name=True, escape=False, newline="\r\n") for doc in RESPONSE_DOCS],
    "nameless": list(map(encoded, RESPONSE_DOCS)),
}


def responses_reader() -> Reader:
    dialect = OpenAIResponses()
    call = dialect.parse(request(b'{"model":"m","input":"","stream":true}', ""), "/v1/responses", None)
    return dialect.reader(call, asked_usage=False)


@pytest.mark.parametrize("stream", RESPONSE_STREAMS)
def test_responses(sdks: Decoders, stream: str) -> None:
    for whole, sent, _ in cuts(RESPONSE_STREAMS[stream]):
        reader = responses_reader()
        out = fed(reader, sent)
        items, error = sdks.response(out + reader.cut(REFUSE, RID))
        expected = [doc["type"] for doc in RESPONSE_DOCS[:whole]]
        kinds = [item.type for item in items]
        if error is not None:
            assert (error.code, error.body["llmguard"]["request_id"]) == ("budget_exceeded", RID), sent
            assert kinds in (expected, [*expected, RESPONSE_DOCS[whole]["type"]]), sent
            continue
        assert [item.sequence_number for item in items] == list(range(len(items))), sent
        assert kinds[0] == "response.created"
        assert kinds[-1] == ("response.completed" if reader.finished else "response.incomplete"), sent


# Anthropic.

MESSAGE_DOCS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'é😀 "\\'}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "input": {"a": [1]}}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 42}},
    {"type": "message_stop"},
]
MESSAGE_STREAMS = {
    "plain": [encoded(doc, name=True) for doc in MESSAGE_DOCS],
    "unescaped": [encoded(doc, name=True, escape=False, newline="\r\n") for doc in MESSAGE_DOCS],
}


@pytest.mark.parametrize("stream", MESSAGE_STREAMS)
def test_anthropic(sdks: Decoders, stream: str) -> None:
    for whole, sent, torn in cuts(MESSAGE_STREAMS[stream]):
        reader = MessagesReader()
        items, error = sdks.message(fed(reader, sent) + reader.cut(REFUSE, RID))
        done = MESSAGE_DOCS[whole : whole + is_json(object_of(torn))]
        kinds = [doc["type"] for doc in MESSAGE_DOCS[:whole] + done if doc["type"] != "ping"]
        if done and whole == len(MESSAGE_DOCS) - 1 and reader.finished:
            assert (items[-1].type, error) == ("message_stop", None)
            continue
        kinds = kinds[:-1] if kinds and kinds[-1] == "message_stop" else kinds
        assert [item.type for item in items] == kinds, sent
        assert isinstance(error, anthropic.APIStatusError), sent
        assert (error.type, error.error_code) == ("rate_limit_error", "budget_exceeded"), sent
        assert error.body["error"]["llmguard"]["request_id"] == error.body["request_id"] == RID


# Gemini.


def content(part: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0, **more}], "modelVersion": "g"}


CONTENT_DOCS: list[dict[str, Any]] = [
    content({"text": 'é😀 "\\'}) | {"usageMetadata": {"promptTokenCount": 1}},
    content({"functionCall": {"name": "rm", "args": {"path": "/tmp/scratch", "n": [-1.5, True]}}}),
    content({"text": "."}, finishReason="STOP"),
]
CONTENT_STREAMS = {
    "plain": [encoded(doc, newline="\r\n") for doc in CONTENT_DOCS],
    "unescaped": [encoded(doc, escape=False) for doc in CONTENT_DOCS],
}


@pytest.mark.parametrize("stream", CONTENT_STREAMS)
def test_gemini(sdks: Decoders, stream: str) -> None:
    for whole, sent, torn in cuts(CONTENT_STREAMS[stream]):
        reader = GeminiReader(1)
        chunks, error = sdks.content(fed(reader, sent) + reader.cut(REFUSE, RID))
        text, done = object_of(torn), is_json(object_of(torn))
        parts = [one.candidates[0].content.parts[0] for one in chunks]
        expected = CONTENT_DOCS[: whole + done]
        for doc, part in zip(expected, parts, strict=False):
            said = doc["candidates"][0]["content"]["parts"][0]
            assert part.text == said.get("text")
            assert part.function_call is None or part.function_call.args == said["functionCall"]["args"], sent
        if done and whole == len(CONTENT_DOCS) - 1:
            assert (len(chunks), error) == (len(CONTENT_DOCS), None), sent
            continue
        assert isinstance(error, errors.ClientError), sent
        assert (error.code, error.details["error"]["llmguard"]["request_id"]) == (429, RID), sent
        assert [part.text for part in parts[len(expected) :]] == ([""] if len(text) > 1 and not done else []), sent
        assert all(part.function_call is None for part in parts[len(expected) :])
