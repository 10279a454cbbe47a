"""Which sandbox answers which path."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from llmguard.providers.sandbox import anthropic, files, gemini, openai_chat, openai_responses
from llmguard.providers.sandbox.answer import Answer, Ask, error, whole
from llmguard.providers.sandbox.behaviour import MODELS, PREFIX, Behaviour, behaviour
from llmguard.providers.sandbox.embeddings import embeddings

Handler = Callable[[Ask, str, Behaviour], Answer]

# Path (after the version) -> family, the field without which there is no prompt, and who answers.
POSTS: dict[str, tuple[str, str, Handler]] = {
    "chat/completions": ("openai", "messages", openai_chat.chat),
    "completions": ("openai", "prompt", openai_chat.completions),
    "responses": ("openai", "input", openai_responses.create),
    "embeddings": ("openai", "input", embeddings),
    "messages": ("anthropic", "messages", anthropic.messages),
    "messages/count_tokens": ("anthropic", "messages", anthropic.count_tokens),
    "generateContent": ("gemini", "contents", gemini.generate),
    "streamGenerateContent": ("gemini", "contents", gemini.stream_generate),
    "countTokens": ("gemini", "", gemini.count_tokens),
    "embedContent": ("gemini", "content", gemini.embed),
    "batchEmbedContents": ("gemini", "requests", gemini.batch_embed),
}
_VERSION = re.compile(r"(?:/openai|/api)?/(?:(?:v1|v1beta|v1alpha|v1beta1)/)?")
_GEMINI = re.compile(r"(?:.*/)?models/(.+):(\w+)")
_KEPT = re.compile(r"(response|file)s/([^/]+)(?:/(\w+))?")


def respond(ask: Ask) -> Answer:
    """The answer to any request, an error in the right shape included."""
    answer = _route(ask)
    name = b"request-id" if "anthropic-version" in ask.headers else b"x-request-id"
    answer.headers.append((name, ask.new_id("req_").encode()))
    return answer


def _route(ask: Ask) -> Answer:
    version = _VERSION.match(ask.path)
    path = ask.path[version.end() :] if version else ask.path
    if match := _GEMINI.fullmatch(path):
        return _post(ask, match[2], match[1])
    if path in POSTS:
        return _post(ask, path, None)
    family = _family(ask)
    if path == "files":
        return files.upload(ask, family) if ask.method == "POST" else files.listing(ask, family)
    if match := _KEPT.fullmatch(path):
        return files.kept(ask, family, match[1], match[2], match[3] or "")
    if path == "models" or path.startswith("models/"):
        return _models(ask, family, path[len("models/") :])
    return error(family, 404, "The sandbox does not serve this path.", ask.new_id("req_"))


def _family(ask: Ask) -> str:
    """Some paths are served by several families; their SDKs' headers tell them apart."""
    if "anthropic-version" in ask.headers:
        return "anthropic"
    return "gemini" if "x-goog-api-client" in ask.headers or "/v1beta/" in ask.path else "openai"


def _post(ask: Ask, path: str, model: str | None) -> Answer:
    family, needed, handler = POSTS.get(path, ("gemini", "", None))
    if handler is None or ask.method != "POST":
        return error(family, 404, "The sandbox does not serve this.", ask.new_id("req_"))
    doc = _decode(ask.body)
    if doc is None or (needed and not isinstance(doc.get(needed), str | list | dict)):
        message = f"A JSON object is needed{f', with a field {needed!r}' if needed else ''}."
        return error(family, 400, message, ask.new_id("req_"))
    ask.doc = doc
    name = model if model is not None else str(doc.get("model", "echo"))
    acts = ask.acts or behaviour(name)
    if acts.status != 200:
        message = f"The model {name} always answers with status {acts.status}."
        return error(family, acts.status, message, ask.new_id("req_"))
    if ask.fail is not None:
        return error(family, ask.fail, "The sandbox was told to fail now and then.", ask.new_id("req_"))
    return handler(ask, name, acts)


def _decode(body: bytes) -> dict[str, Any] | None:
    try:
        doc = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return doc if isinstance(doc, dict) else None


def _models(ask: Ask, family: str, name: str) -> Answer:
    names = [model for model in MODELS if not name or model == name.removeprefix(PREFIX)]
    rows = [_MODEL[family](model, ask.now) for model in names]
    if name:
        return whole(rows[0]) if rows else error(family, 404, "There is no such model.", ask.new_id("req_"))
    if family == "gemini":
        return whole({"models": rows})
    if family == "anthropic":
        return whole({"data": rows, "has_more": False, "first_id": names[0], "last_id": names[-1]})
    return whole({"object": "list", "data": rows})


def _anthropic_model(model: str, now: int) -> dict[str, Any]:
    created = datetime.fromtimestamp(now, UTC).isoformat()
    row = {"id": model, "type": "model", "display_name": f"Sandbox {model}", "created_at": created}
    return row | {"lifecycle": "active"}


def _gemini_model(model: str, now: int) -> dict[str, Any]:
    actions = ["generateContent", "countTokens", "embedContent"]
    return {"name": f"models/{model}", "displayName": f"Sandbox {model}", "supportedGenerationMethods": actions}


_MODEL: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "openai": lambda model, now: {"id": model, "object": "model", "created": now, "owned_by": "sandbox"},
    "anthropic": _anthropic_model,
    "gemini": _gemini_model,
}
