"""OpenAI embeddings: a prompt, or many, and no generated tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llmguard.core.call import Call, Edits, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.providers.base import UNREADABLE, decode, encode, read_loosely, splice, wrong
from llmguard.providers.openai_common import FAMILY, chat_usage, end_user, error_member, model_name, refusal
from llmguard.providers.stream import PASS, Fate, SSEReader


class OpenAIEmbeddings:
    """The dialect of ``/v1/embeddings``."""

    name = "openai_embeddings"
    family = FAMILY

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request. Raises :class:`BadCall` where a field that counts has the wrong form."""
        body = request.body
        doc = decode(body)
        _look_at_input(doc.get("input"))
        return Call(
            self.name,
            FAMILY,
            endpoint,
            request.method,
            request.path,
            request.query,
            request.headers,
            body,
            model_name(doc, model),
            doc,
            generates=False,
            end_user=end_user(doc),
            prompt_bytes=len(body),
        )

    def texts(self, call: Call) -> Sequence[str]:
        """The inputs that are text."""
        inputs = _inputs(call)
        return [text for text in inputs if type(text) is str]

    def overhead_tokens(self, call: Call) -> int:
        """The inputs that are token numbers already, counted exactly."""
        return sum(len(item) if type(item) is list else 1 for item in _inputs(call) if type(item) is not str)

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with the model's name replaced; nothing else applies to embeddings."""
        doc = call.doc or {}
        if edits.model is None or "model" not in doc:
            return call.body
        return splice(call.body, {"model": encode(edits.model)}, present=doc)

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader for the reply."""
        return EmbeddingsReader()

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """The body of an error reply."""
        return refusal(refuse, request_id)


class Embeddings(msgspec.Struct):
    """A reply without its vectors."""

    model: Any = None
    usage: Any = None


_decode = msgspec.json.Decoder(Embeddings).decode


class EmbeddingsReader(SSEReader):
    """The reader of the embeddings dialect. Nobody streams embeddings: a stream passes unread."""

    __slots__ = ()

    def _reply(self, body: bytes) -> None:
        try:
            reply = _decode(body)
        except UNREADABLE:
            doc = read_loosely(body)
            reply = Embeddings(model=doc.get("model"), usage=doc.get("usage"))
        if type(reply.model) is str:
            self.model = reply.model
        if type(reply.usage) is dict:
            self.usage = chat_usage(reply.usage)

    def _event(self, data: bytes) -> Fate:
        return PASS

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        return error_member(refuse, request_id)

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        return b""


def _look_at_input(value: Any) -> None:
    """A string, or an array of strings, of token numbers, or of arrays of token numbers."""
    if value is None or type(value) is str:
        return
    if type(value) is not list:
        raise wrong("input", value, "a string or an array")
    for item in value:
        if type(item) is not str and type(item) is not int and type(item) is not list:
            raise wrong("input", item, "an array of strings or of token numbers")


def _inputs(call: Call) -> list[Any]:
    value = (call.doc or {}).get("input")
    return value if type(value) is list else [value] if type(value) is str else []
