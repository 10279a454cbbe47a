"""What must not be kept is not kept: whole, streamed, escaped, or cut in two by events."""

from __future__ import annotations

import json
import random

import pytest

from llmguard.stages.redaction import Redactor, as_it_came
from tests.support.ledger import seed

KEY = "sk-" + "proj-abcdefghijklmnop1234"


def masked(text: str, *patterns: str) -> str:
    return Redactor(patterns)(text.encode())


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"my key is {KEY}!", "my key is sk-***!"),
        ("write to jo.hn+x@mail.example.com, soon", "write to ***, soon"),
        ("a@b is no address, @me neither", "a@b is no address, @me neither"),
        ("card 4111 1111 1111 1111.", "card ***."),
        ("card 4111-1111-1111-1111", "card ***"),
        ("card 378282246310005", "card ***"),
        ("order 4111111111111112", "order 4111111111111112"),
        ("at 1790000100000 ms", "at 1790000100000 ms"),
        ("phone 123-456", "phone 123-456"),
    ],
)
def test_what_is_masked(text: str, kept: str) -> None:
    assert masked(text) == kept


def test_patterns_of_ones_own() -> None:
    assert masked("EMP-123456 and EMP-12", r"EMP-\d{6}") == "*** and EMP-12"


def test_escapes_hide_nothing() -> None:
    body = b'{"messages": [{"content": "to jo\\u0040mail.example.com \\u00fc"}]}'
    assert json.loads(Redactor()(body)) == {"messages": [{"content": "to *** ü"}]}


def test_what_is_no_json_or_utf8_is_masked_as_it_is() -> None:
    assert Redactor()(b'{"cut": "jo@mail.example.com') == '{"cut": "***'
    assert Redactor()(b"\xff jo@mail.example.com") == "\ufffd ***"
    assert as_it_came(b"\xff jo@mail.example.com") == "\ufffd jo@mail.example.com"


def openai(pieces: list[str]) -> bytes:
    events = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def responses(pieces: list[str]) -> bytes:
    events = [{"type": "response.output_text.delta", "output_index": 0, "delta": piece} for piece in pieces]
    events.append({"type": "response.output_text.done", "text": "".join(pieces)})
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def anthropic(pieces: list[str]) -> bytes:
    start = {"type": "message_start", "message": {"content": []}}
    events = [
        start,
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in pieces),
    ]
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def gemini(pieces: list[str]) -> bytes:
    events = [{"candidates": [{"index": 0, "content": {"parts": [{"text": piece}]}}]} for piece in pieces]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


@pytest.mark.parametrize("stream", [openai, responses, anthropic, gemini])
def test_a_stream_is_put_together_first(stream: object) -> None:
    """However a secret is cut into events, nothing of it is left."""
    rng = random.Random(seed())
    text = f"Mail jo@mail.example.com or use {KEY}, card 4111 1111 1111 1111."
    for _ in range(20):
        cuts = sorted(rng.sample(range(1, len(text)), 12))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert Redactor()(stream(pieces)) == "Mail *** or use sk-***, card ***."  # type: ignore[operator]


def test_choices_are_told_apart_and_tool_calls_are_heard() -> None:
    events = [
        {"choices": [{"index": 0, "delta": {"content": "one"}}]},
        {"choices": [{"index": 1, "delta": {"tool_calls": [{"function": {"name": "f", "arguments": '{"to": "jo'}}]}}]},
        {"choices": [{"index": 0, "delta": {"content": " more"}}]},
        {"choices": [{"index": 1, "delta": {"tool_calls": [{"function": {"arguments": '@mail.example.com"}'}}]}}]},
    ]
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert Redactor()(stream) == 'one more\n{"to": "***"}'


def test_a_stream_of_another_kind_is_masked_as_it_is() -> None:
    assert Redactor()(b'data: {"odd": "jo@mail.example.com"}\n\n') == 'data: {"odd": "***"}\n\n'
    assert Redactor()(b"data: broken {\n\n") == "data: broken {\n\n"
