"""Gemini: generateContent, streamGenerateContent (SSE or one JSON array), countTokens and the embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from llmguard.providers.sandbox.answer import JSON, Answer, Ask, data, stream, whole
from llmguard.providers.sandbox.behaviour import Behaviour
from llmguard.providers.sandbox.draft import Draft, Prompt, Tool, ToolChoice, choices, count, draft, positive, texts_of
from llmguard.providers.sandbox.embeddings import vector

FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool": "STOP"}
CHOICE: dict[str, ToolChoice] = {"ANY": "must", "NONE": "none"}
_CAPITAL = re.compile(r"[A-Z]")


def generate(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1beta/models/{model}:generateContent`."""
    prompt = _read(ask.doc)
    reply = draft(prompt, behaviour)
    part = _call_part(reply) if reply.tool else {"text": reply.text}
    return whole(_chunk(ask.new_id(""), model, prompt, part, reply), behaviour)


def stream_generate(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1beta/models/{model}:streamGenerateContent`, as SSE with `alt=sse`, else as one array in pieces."""
    prompt = _read(ask.doc)
    reply = draft(prompt, behaviour)
    parts = [_call_part(reply)] if reply.tool else [{"text": piece} for piece in reply.pieces]
    response_id = ask.new_id("")
    chunks = [
        _chunk(response_id, model, prompt, part, reply, left=len(parts) - number)
        for number, part in enumerate(parts, start=1)
    ]
    query = parse_qs(ask.query)
    if "sse" in query.get("alt", []) + query.get("$alt", []):
        return stream([data(chunk) for chunk in chunks], behaviour)
    pieces = [(b"[" if n == 0 else b",\r\n") + msgspec.json.encode(chunk) for n, chunk in enumerate(chunks)]
    return stream([*pieces, b"]"], behaviour, JSON)


def count_tokens(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1beta/models/{model}:countTokens`."""
    doc = _section(ask.doc, "generateContentRequest") or ask.doc
    tokens = count(_texts(doc))
    return whole({"totalTokens": tokens, "promptTokensDetails": _modality(tokens)}, behaviour)


def embed(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1beta/models/{model}:embedContent`."""
    texts = texts_of(ask.doc.get("content") or ask.doc.get("contents") or [])
    document = {"embedding": {"values": _values(ask.doc, texts)}}
    return whole(document | _embed_usage(count(texts), behaviour), behaviour)


def batch_embed(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1beta/models/{model}:batchEmbedContents`."""
    listed = ask.doc.get("requests")
    requests = [r for r in listed if isinstance(r, dict)] if isinstance(listed, list) else []
    texts = [texts_of(request.get("content") or []) for request in requests]
    vectors = [{"values": _values(request, t)} for request, t in zip(requests, texts, strict=True)]
    tokens = sum(count(t) for t in texts)
    return whole({"embeddings": vectors} | _embed_usage(tokens, behaviour), behaviour)


def _field(doc: Mapping[str, Any], name: str) -> Any:
    """A field by its JSON name; protobuf's JSON also takes the snake-case one, and the SDK mixes both."""
    return doc.get(name, doc.get(_CAPITAL.sub(lambda match: "_" + match[0].lower(), name)))


def _section(doc: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = _field(doc, name)
    return found if isinstance(found, Mapping) else {}


def _texts(doc: Mapping[str, Any]) -> list[str]:
    return texts_of(_section(doc, "systemInstruction")) + texts_of(doc.get("contents") or [])


def _read(doc: dict[str, Any]) -> Prompt:
    contents = doc.get("contents")
    turns = contents if isinstance(contents, list) else [contents]
    last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
    config = _section(doc, "generationConfig")
    calling = _section(_section(doc, "toolConfig"), "functionCallingConfig")
    allowed = _field(calling, "allowedFunctionNames")
    parts = last.get("parts")
    answers_tool = isinstance(parts, list) and any(isinstance(p, dict) and _field(p, "functionResponse") for p in parts)
    return Prompt(
        texts=_texts(doc),
        last=" ".join(texts_of(last)),
        asked=last.get("role", "user") == "user" and not answers_tool,
        tools=_tools(doc.get("tools")),
        choice=CHOICE.get(str(calling.get("mode")), "auto"),
        tool_name=allowed[0] if isinstance(allowed, list) and allowed else None,
        schema=_schema(config),
        max_tokens=positive(_field(config, "maxOutputTokens")),
        choices=choices(_field(config, "candidateCount")),
    )


def _tools(offered: Any) -> list[Tool]:
    tools: list[Tool] = []
    for entry in offered if isinstance(offered, list) else []:
        declared = _field(entry, "functionDeclarations") if isinstance(entry, dict) else []
        for function in declared if isinstance(declared, list) else []:
            if isinstance(function, dict):
                schema = _field(function, "parametersJsonSchema") or function.get("parameters")
                tools.append(Tool(str(function.get("name")), schema))
    return tools


def _schema(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if _field(config, "responseMimeType") != "application/json":
        return None
    plain = {"properties": {"reply": {"type": "string"}}}
    return _section(config, "responseJsonSchema") or _section(config, "responseSchema") or plain


def _call_part(reply: Draft) -> dict[str, Any]:
    return {"functionCall": {"name": reply.tool, "args": msgspec.json.decode(reply.text)}}


def _chunk(
    response_id: str, model: str, prompt: Prompt, part: dict[str, Any], reply: Draft, *, left: int = 0
) -> dict[str, Any]:
    """One (part of a) response, ``left`` pieces before the last; the usage is that of all pieces so far."""
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}}
    if not left:
        candidate["finishReason"] = FINISH[reply.finish]
    document: dict[str, Any] = {
        "candidates": [candidate | {"index": n} for n in range(prompt.choices)],
        "modelVersion": model,
        "responseId": response_id,
    }
    if reply.usage is None:
        return document
    tokens_in, tokens_out = reply.usage
    tokens_out = max(tokens_out - left * prompt.choices, 0)
    usage = {
        "promptTokenCount": tokens_in,
        "candidatesTokenCount": tokens_out,
        "totalTokenCount": tokens_in + tokens_out,
        "promptTokensDetails": _modality(tokens_in),
    }
    return document | {"usageMetadata": usage}


def _modality(tokens: int) -> list[dict[str, Any]]:
    return [{"modality": "TEXT", "tokenCount": tokens}]


def _values(doc: Mapping[str, Any], texts: list[str]) -> list[float]:
    config = _section(doc, "embedContentConfig") or doc
    return vector(" ".join(texts), positive(_field(config, "outputDimensionality")))


def _embed_usage(tokens: int, behaviour: Behaviour) -> dict[str, Any]:
    if not behaviour.reports:
        return {}
    reported = behaviour.usage[0] if behaviour.usage else tokens
    return {"usageMetadata": {"promptTokenCount": reported, "promptTokenDetails": _modality(reported)}}
