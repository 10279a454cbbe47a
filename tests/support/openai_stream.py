"""Streams in OpenAI's formats, and the real SDK reading bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx2
import openai


def event(doc: dict[str, Any], name: str = "") -> bytes:
    """One event as OpenAI writes it."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(doc, separators=(',', ':'))}\n\n".encode()


def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    """One chunk of a chat completion."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o-mini-x"}
    return event({**head, "choices": choices, **more})


def piece(text: str | None = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    """One choice of a chunk."""
    content = {} if text is None else {"content": text}
    return {"index": index, "delta": {**content, **delta}, "logprobs": None, "finish_reason": finish}


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
}
USAGE_CHUNK = chunk([], usage=USAGE)
DONE = b"data: [DONE]\n\n"
CHAT_EVENTS = [
    chunk([piece("", role="assistant")], usage=None),
    chunk([piece("Hello")], usage=None),
    chunk([piece(" wörld")], usage=None),
    chunk([piece(finish="stop")], usage=None),
    USAGE_CHUNK,
    DONE,
]

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "gpt-5-x",
    "output": [],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": None,
}
MESSAGE = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant"}
TEXT = {"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}
RESPONSE_USAGE = {
    "input_tokens": 20,
    "output_tokens": 9,
    "total_tokens": 29,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 6},
}


def _numbered(docs: Iterable[dict[str, Any]]) -> list[bytes]:
    return [event({**doc, "sequence_number": n}, doc["type"]) for n, doc in enumerate(docs)]


_PART = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
RESPONSE_EVENTS = _numbered(
    [
        {"type": "response.created", "response": RESPONSE},
        {"type": "response.in_progress", "response": RESPONSE},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**MESSAGE, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **_PART, "part": {**TEXT, "text": ""}},
        {"type": "response.output_text.delta", **_PART, "delta": "Hello", "logprobs": [], "obfuscation": "x" * 9},
        {"type": "response.output_text.delta", **_PART, "delta": " there", "logprobs": [], "obfuscation": "x" * 8},
        {"type": "response.output_text.done", **_PART, "text": "Hello there", "logprobs": []},
        {"type": "response.content_part.done", **_PART, "part": TEXT},
        {"type": "response.output_item.done", "output_index": 0, "item": {**MESSAGE, "content": [TEXT]}},
        {
            "type": "response.completed",
            "response": {
                **RESPONSE,
                "status": "completed",
                "output": [{**MESSAGE, "content": [TEXT]}],
                "usage": RESPONSE_USAGE,
            },
        },
    ]
)


def client(body: bytes) -> openai.OpenAI:
    """The real SDK, to whom every request is answered with ``body`` as an event stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="x", base_url="http://provider/v1", http_client=transport, max_retries=0)
