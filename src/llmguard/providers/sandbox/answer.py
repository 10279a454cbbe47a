"""A sandbox reply as bytes, and the errors of each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llmguard.providers.sandbox.behaviour import ECHO, Behaviour
from llmguard.providers.sandbox.shelf import Shelf

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
SSE = (b"content-type", b"text/event-stream; charset=utf-8")
WORDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
GOOGLE_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


@dataclass(slots=True)
class Ask:
    """One request. ``new_id`` makes a fresh id with the given prefix, ``now`` is the time in epoch seconds.

    ``shelf`` holds what earlier requests stored, ``fail`` is an error status to answer with, ``doc`` the decoded body.
    ``acts`` is what to do where that is not for the model's name to say.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    new_id: Callable[[str], str]
    now: int
    shelf: Shelf
    fail: int | None = None
    acts: Behaviour | None = None
    doc: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """One reply. ``pieces`` of the body are sent one by one as ``behaviour`` says; ``streams`` marks a stream."""

    status: int
    headers: Headers
    pieces: list[bytes]
    behaviour: Behaviour = ECHO
    streams: bool = False


def whole(document: Any, behaviour: Behaviour = ECHO) -> Answer:
    """A reply in one JSON document."""
    return Answer(200, [JSON], [msgspec.json.encode(document)], behaviour)


def stream(events: list[bytes], behaviour: Behaviour, content_type: tuple[bytes, bytes] = SSE) -> Answer:
    """A reply in events."""
    return Answer(200, [content_type], events, behaviour, streams=True)


def data(document: Any) -> bytes:
    """One unnamed server-sent event."""
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event that is named by its own `type`."""
    return f"event: {document['type']}\n".encode() + data(document)


def error(family: str, status: int, message: str, request_id: str, code: str | None = None) -> Answer:
    """An error in the family's own shape."""
    word = WORDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if family == "gemini":
        document: dict[str, Any] = {
            "error": {"code": status, "message": message, "status": GOOGLE_WORDS.get(status, "UNKNOWN")}
        }
    elif family == "anthropic":
        kind = "overloaded_error" if status == 529 else word
        document = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    else:
        kind = "server_error" if status >= 500 else word
        document = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    headers = [JSON, (b"retry-after", b"1")] if status in (429, 503, 529) else [JSON]
    return Answer(status, headers, [msgspec.json.encode(document)])
