"""Replies as the providers write them: a whole one, and streams, one piece an event, of words as long as they are asked
to be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
COST = 1_000 * 5_000 + 100 * 15_000
"""Of that in nano-USD, at $5 and $15 a million."""
REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def chunk_of(choices: Sequence[Any], usage: Any = None) -> dict[str, Any]:
    """One event of a chat stream."""
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": choices}
    return event if usage is None else event | {"usage": usage}


def event_of(document: Any) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chat_stream(words: int, usage: Any = None, *, length: int = 5) -> list[bytes]:
    """The events of a chat stream, one piece each: words of this length, and the usage where it was asked for."""
    texts = [{"index": 0, "delta": {"content": "w" * length + f"{n} "}, "finish_reason": None} for n in range(words)]
    events = [event_of(chunk_of([text])) for text in texts]
    events.append(event_of(chunk_of([{"index": 0, "delta": {}, "finish_reason": "stop"}])))
    if usage is not None:
        events.append(event_of(chunk_of([], usage)))
    return [*events, b"data: [DONE]\n\n"]


def named(*events: dict[str, Any]) -> list[bytes]:
    """Events as Anthropic writes them."""
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def claude_stream(words: int, *, length: int = 5) -> list[bytes]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    message |= {"stop_sequence": None, "usage": {"input_tokens": 100, "output_tokens": 1}}
    texts = [{"type": "text_delta", "text": "w" * length + f"{n} "} for n in range(words)]
    return named(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": text} for text in texts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    )


def google_stream(words: int, *, length: int = 5) -> list[bytes]:
    def event(text: str, **more: Any) -> bytes:
        candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
        return b"data: " + json.dumps({"candidates": [candidate | more], "modelVersion": "m"}).encode() + b"\r\n\r\n"

    usage = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
    candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": "."}]}, "finishReason": "STOP"}
    end = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}
    return [event("w" * length + f"{n} ") for n in range(words)] + [b"data: " + json.dumps(end).encode() + b"\r\n\r\n"]
