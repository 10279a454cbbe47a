"""The bytes on the wire: an OpenAI chat call as its SDK sends it, and the provider's replies to it.

Heads are as long as in real traffic, because parsing and copying them is a large part of what a proxy does: 17 header
lines from the SDK, 24 from the provider. The body is about 1 KB, the whole reply's about 600 B, a stream has 50 chunks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

PATH = "/v1/chat/completions"
MODEL = "bench-model"
CHUNKS = 50
INPUT_TOKENS = 221
OUTPUT_TOKENS = 87

# Half a nano-dollar per input token: an odd token count makes every entry's cost need its one rounding up.
INPUT_PRICE = "$0.1375/M"
OUTPUT_PRICE = "$0.55/M"
COST_NANO = -(-(INPUT_TOKENS * 1375 + OUTPUT_TOKENS * 5500) // 10)

_ID = "chatcmpl-BenchB6vM2dQ8sX1kTz0yWq5LrNf3"
_PROMPT = (
    "A customer writes that the parcel ordered on the third of the month has not arrived, that the tracking page has "
    "shown the same depot for six days, and that two earlier letters were answered with a form reply. Write a short "
    "answer that says plainly what happens next, offers either a second shipment or the money back, names the day by "
    "which a decision is needed, and does not apologise more than once. "
)
_ANSWER = (
    "Your parcel has been at the same depot for six days, so we treat it as lost. You can have a second shipment, "
    "which leaves tomorrow, or your money back within three working days. Please tell us which one by Friday."
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the upstream sends: ``writes`` go out one by one; ``body_bytes`` is the body's length without framing."""

    writes: tuple[bytes, ...]
    body_bytes: int


def request(host: str, authorization: str, *, stream: bool, no_store: bool = False) -> bytes:
    """One complete call, head and body; ``no_store`` keeps it away from a cache."""
    body = request_body(stream=stream)
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"Host: {host}",
        "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive",
        "Accept: application/json",
        "Content-Type: application/json",
        "User-Agent: AsyncOpenAI/Python 3.57.0",
        "X-Stainless-Lang: python",
        "X-Stainless-Package-Version: 3.57.0",
        "X-Stainless-OS: Linux",
        "X-Stainless-Arch: x64",
        "X-Stainless-Runtime: CPython",
        "X-Stainless-Runtime-Version: 3.11.7",
        "X-Stainless-Async: async:asyncio",
        "X-Stainless-Retry-Count: 0",
        "X-Stainless-Read-Timeout: 600",
        f"Authorization: Bearer {authorization}",
        f"Content-Length: {len(body)}",
    ]
    lines += ["Cache-Control: no-store"] if no_store else []
    return _head(lines) + body


def whole_reply() -> Reply:
    """A complete chat answer with usage, in one write."""
    document = {
        "id": _ID,
        "object": "chat.completion",
        "created": 1795000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _ANSWER, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(),
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }
    body = _dump(document)
    head = _reply_head("application/json", f"Content-Length: {len(body)}")
    return Reply((head + body,), len(body))


def stream_reply() -> Reply:
    """An answer of :data:`CHUNKS` server-sent events, each in a write and an HTTP chunk of its own.

    The first carries the role, the last but one the finish reason, the last the usage and ``[DONE]``.
    """
    words = [f" word{i:02d}" for i in range(CHUNKS - 3)]
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": w} for w in words)]
    events = [_event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]) for delta in deltas]
    events.append(_event([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]))
    events.append(_event([], usage=True) + b"data: [DONE]\n\n")
    writes = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    writes[0] = _reply_head("text/event-stream; charset=utf-8", "Transfer-Encoding: chunked") + writes[0]
    writes[-1] += b"0\r\n\r\n"
    return Reply(tuple(writes), sum(map(len, events)))


def request_body(*, stream: bool) -> bytes:
    """The body of a call."""
    document: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You answer letters to a mail-order house. Plain words, no lists."},
            {"role": "user", "content": _PROMPT * 2},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
        "user": "customer-4711",
    }
    if stream:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    return _dump(document)


def _event(choices: list[dict[str, object]], *, usage: bool = False) -> bytes:
    document: dict[str, object] = {
        "id": _ID,
        "object": "chat.completion.chunk",
        "created": 1795000000,
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
        "choices": choices,
        "usage": _usage() if usage else None,
    }
    return b"data: " + _dump(document) + b"\n\n"


def _usage() -> dict[str, object]:
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _reply_head(content_type: str, framing: str) -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        "Date: Tue, 24 Nov 2026 12:00:00 GMT",
        f"Content-Type: {content_type}",
        framing,
        "Connection: keep-alive",
        "Access-Control-Expose-Headers: X-Request-ID",
        "OpenAI-Organization: bench",
        "OpenAI-Processing-Ms: 412",
        "OpenAI-Project: proj_bench",
        "OpenAI-Version: 2020-10-01",
        "X-Envoy-Upstream-Service-Time: 431",
        "X-RateLimit-Limit-Requests: 10000",
        "X-RateLimit-Limit-Tokens: 2000000",
        "X-RateLimit-Remaining-Requests: 9999",
        "X-RateLimit-Remaining-Tokens: 1999500",
        "X-RateLimit-Reset-Requests: 6ms",
        "X-RateLimit-Reset-Tokens: 15ms",
        "X-Request-ID: req_bench5f0c7be64d1c8a0d2f6b9e3a1c4d",
        "CF-Cache-Status: DYNAMIC",
        "Strict-Transport-Security: max-age=31536000; includeSubDomains; preload",
        "X-Content-Type-Options: nosniff",
        "Server: cloudflare",
        "CF-RAY: 9a3c5e7f1b2d4068-TXL",
        'Alt-Svc: h3=":443"; ma=86400',
        "Vary: Accept-Encoding",
    ]
    return _head(lines)


def _head(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
