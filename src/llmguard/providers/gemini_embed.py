"""Gemini's `embedContent` and `batchEmbedContents`. Most replies report no usage, so the prompt is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llmguard.core.call import Call, Edits, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.errors import BadCall
from llmguard.providers.base import decode, encode, member, splice, take_object
from llmguard.providers.gemini_common import FAMILY, Prompt, check_model, strings, take_objects
from llmguard.providers.gemini_reply import GeminiReader, error_body

_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class GeminiEmbed:
    """The dialect `gemini_embed`. The model is named by the path, and in a batch by every request again."""

    name = "gemini_embed"
    family = FAMILY

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request for one or many embeddings."""
        if not model:
            raise BadCall("The path names no model.", code="missing_field", param="model")
        body = request.body
        doc = decode(body)
        check_model(doc, model)
        prompt = Prompt()
        prompt.contents(_contents(doc))
        for each in take_objects(doc, "requests"):
            check_model(each, model, "requests.model")
        return Call(
            self.name,
            FAMILY,
            endpoint,
            request.method,
            request.path,
            request.query,
            request.headers,
            body,
            model,
            doc,
            generates=False,
            prompt_bytes=len(body) - prompt.encoded,
            extra_input_tokens=prompt.tokens,
            server_context=prompt.unseen,
            audio=prompt.audio or prompt.tokens > 0 or prompt.unseen,  # gemini-embedding-2 prices every medium apart
            reads=tuple(dict.fromkeys(prompt.reads)),
        )

    def texts(self, call: Call) -> Sequence[str]:
        """The texts to be embedded."""
        return list(strings(_contents(call.doc or {})))

    def overhead_tokens(self, call: Call) -> int:
        """One token for each text; Gemini adds no more."""
        return len(_contents(call.doc or {}))

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with another model wherever it repeats the one in the path."""
        doc = call.doc or {}
        if edits.model is None:
            return call.body
        name = encode(f"models/{edits.model}")
        changes = {"model": name} if doc.get("model") is not None else {}
        requests = doc.get("requests")
        if type(requests) is list:
            raw = _raw_list(member(call.body, "requests"))
            renamed = [_renamed(bytes(one), doc, name) for one, doc in zip(raw, requests, strict=True)]
            changes["requests"] = b"[" + b",".join(renamed) + b"]"
        elif requests is not None:
            changes["requests"] = _renamed(member(call.body, "requests"), requests, name)
        return splice(call.body, changes, present=doc)

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader."""
        return GeminiReader(call.choices)

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """An error as the API writes them."""
        return error_body(refuse, request_id)


def _contents(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """The content of every request in the body."""
    found = [take_object(doc, "content")]
    found.extend(take_object(each, "content", param="requests.content") for each in take_objects(doc, "requests"))
    return [content for content in found if content is not None]


def _renamed(raw: bytes, request: dict[str, Any], name: bytes) -> bytes:
    return splice(raw, {"model": name}, present=request) if request.get("model") is not None else raw
