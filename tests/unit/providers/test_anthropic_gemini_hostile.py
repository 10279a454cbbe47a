"""Readers meet streams that no provider would send: nothing is lost, nothing raises, everything can be ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.providers.anthropic_reply import MessagesReader
from llmguard.providers.gemini_array import ArrayReader
from llmguard.providers.gemini_reply import GeminiReader

READERS: list[Callable[[], Reader]] = [MessagesReader, lambda: GeminiReader(1), lambda: ArrayReader(2)]
NAMES = ["type", "delta", "text", "message", "usage", "container", "id", "content_block", "content", "error", "index"]
NAMES += ["candidates", "parts", "finishReason", "usageMetadata", "promptTokenCount", "promptFeedback", "file_id"]
WORDS = [
    "message_start",
    "message_delta",
    "message_stop",
    "content_block_delta",
    "content_block_start",
    "error",
    "STOP",
]
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 9) | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=10,
)
PIECE = st.one_of(
    VALUE.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n"),
    VALUE.map(lambda value: b"event: x\r\ndata: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n"),
    VALUE.map(lambda value: json.dumps(value, indent=1).encode() + b",\n"),
    st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"\n", b"\r", b"\r\n\r\n", b": hi\n\n", b"data: [DONE]\n\n"]),
    st.binary(max_size=6),
)
CHUNKS = st.lists(PIECE, max_size=8)


@pytest.mark.parametrize("make", READERS)
@settings(max_examples=100, deadline=None)
@given(CHUNKS, st.integers(1, 40))
def test_every_byte_comes_out_in_order(make: Callable[[], Reader], pieces: list[bytes], size: int) -> None:
    body = b"".join(pieces)
    by_piece, by_size = make(), make()
    assert b"".join(map(by_piece.feed, pieces)) + by_piece.flush() == body
    out = b"".join(by_size.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert out + by_size.flush() == body
    assert (by_piece.usage, by_piece.created, by_piece.finished) == (by_size.usage, by_size.created, by_size.finished)


@pytest.mark.parametrize("make", READERS)
@settings(max_examples=100, deadline=None)
@given(CHUNKS)
def test_every_stream_can_be_cut(make: Callable[[], Reader], pieces: list[bytes]) -> None:
    reader = make()
    out = b"".join(map(reader.feed, pieces))
    end = reader.cut(Refuse("budget_exceeded", 429, "No."), "rid-1")
    assert b"".join(pieces).startswith(out)
    assert end or reader.finished
    assert reader.feed(b"more") == b"more"


@pytest.mark.parametrize("make", READERS)
@settings(max_examples=100, deadline=None)
@given(st.one_of(VALUE.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20)))
def test_every_whole_reply_can_be_read(make: Callable[[], Reader], body: bytes) -> None:
    reader: Any = make()
    reader.whole(200, "application/json", body)
    assert reader.usage is None or reader.usage.input_tokens >= 0
