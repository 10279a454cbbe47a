"""What a fake provider is told to answer, and what it has received."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from llmguard.providers.sandbox import Answer, Ask, Behaviour, Shelf, respond

Fault = Literal["hang", "cut", "reset"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

_JSON: Final = (b"content-type", b"application/json")
_NOW: Final = 1_700_000_000
"""When the fake provider says that it made its replies: they are the same in every run."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, in the shape of whichever API is called, streamed where the caller asks for a stream.

    ``text`` is what the model says, None for an echo of the prompt. ``usage`` is what is reported as (input, output)
    tokens, else what the reply has: a token for every four bytes of the prompt, and one for every word of the reply. A
    ``status`` of 400 and above is an error in the API's own shape. ``body`` is sent as it is instead, ``headers`` in
    addition. Seconds pass before the head (``latency``) and between the pieces of a stream (``interval``).

    Faults: ``hang`` never answers, ``cut`` breaks off in the middle of the body, ``reset`` breaks off before the head.
    """

    text: str | None = None
    usage: tuple[int, int] | None = None
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    latency: float = 0.0
    interval: float = 0.0
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if self.fault is not None and self.fault not in FAULTS:
            raise ValueError(f"fault={self.fault!r}: there are {', '.join(FAULTS)}")
        if not 200 <= self.status <= 599:
            raise ValueError(f"status={self.status}: write one from 200 to 599")


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived. Names of ``headers`` are in lower case; ``path`` is without the query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def model(self) -> str | None:
        """The model that was asked for, None where the request names none."""
        head, found, _ = self.path.rpartition("/models/")[2].partition(":")
        if found:
            return head
        document = json.loads(self.body) if self.body[:1] == b"{" else {}
        model = document.get("model")
        return model if isinstance(model, str) else None


class Script:
    """Makes answers of replies. Their ids are numbered, so that the same calls get the same answers in every run."""

    def __init__(self) -> None:
        self._shelf = Shelf()
        self._ids = 0

    def answer(self, request: Received, reply: Reply) -> Answer:
        """What is sent: status, headers, and the pieces of the body."""
        acts = Behaviour(text=reply.text, usage=reply.usage, truncate=reply.fault == "cut")
        scripted = None if reply == _ECHO else acts
        fail = reply.status if reply.status >= 400 else None
        words = (request.method, request.path, request.query, request.headers, request.body)
        answer = respond(Ask(*words, self._new_id, _NOW, self._shelf, fail, scripted))
        if reply.body is not None:
            answer = Answer(reply.status, [_JSON], [_encoded(reply.body)], acts)
        answer.headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
        return answer

    def _new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}{self._ids:024d}"


_ECHO: Final = Reply()


def _encoded(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
