"""Anthropic messages and their token count."""

from __future__ import annotations

from typing import Any

import msgspec

from llmguard.providers.sandbox.answer import Answer, Ask, event, stream, whole
from llmguard.providers.sandbox.behaviour import Behaviour
from llmguard.providers.sandbox.draft import Draft, Prompt, Tool, ToolChoice, count, draft, positive, texts_of

FINISH = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}
CHOICE: dict[str, ToolChoice] = {"any": "must", "tool": "must", "none": "none"}


def messages(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1/messages`."""
    prompt = _read(ask.doc)
    reply = draft(prompt, behaviour)
    block = _block(ask, reply)
    document = {
        "id": ask.new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block],
        "stop_reason": FINISH[reply.finish],
        "stop_sequence": None,
        **_usage(reply),
    }
    return stream(_events(document, block, reply), behaviour) if prompt.stream else whole(document, behaviour)


def count_tokens(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1/messages/count_tokens`."""
    return whole({"input_tokens": count(_read(ask.doc).texts)}, behaviour)


def _read(doc: dict[str, Any]) -> Prompt:
    turns = doc["messages"]
    last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
    chosen = doc.get("tool_choice")
    choice = chosen if isinstance(chosen, dict) else {}
    offered = doc.get("tools")
    tools = [t for t in offered if isinstance(t, dict) and "input_schema" in t] if isinstance(offered, list) else []
    return Prompt(
        texts=[*texts_of(doc.get("system") or []), *texts_of(turns)],
        last=" ".join(texts_of(last)),
        asked=last.get("role") == "user" and not _answers_tool(last.get("content")),
        tools=[Tool(str(t.get("name")), t["input_schema"]) for t in tools],
        choice=CHOICE.get(str(choice.get("type")), "auto"),
        tool_name=choice.get("name"),
        schema=_schema(doc),
        max_tokens=positive(doc.get("max_tokens")),
        stream=doc.get("stream") is True,
    )


def _answers_tool(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(b, dict) and b.get("type") == "tool_result" for b in content)


def _schema(doc: dict[str, Any]) -> dict[str, Any] | None:
    config = doc.get("output_config")
    form = config.get("format") if isinstance(config, dict) else doc.get("output_format")
    schema = form.get("schema") if isinstance(form, dict) else None
    return schema if isinstance(schema, dict) else None


def _block(ask: Ask, reply: Draft) -> dict[str, Any]:
    if reply.tool is None:
        return {"type": "text", "text": reply.text, "citations": None}
    return {
        "type": "tool_use",
        "id": ask.new_id("toolu_"),
        "name": reply.tool,
        "input": msgspec.json.decode(reply.text),
    }


def _usage(reply: Draft) -> dict[str, Any]:
    if reply.usage is None:
        return {}
    tokens_in, tokens_out = reply.usage
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"usage": {"input_tokens": tokens_in, **cache, "output_tokens": tokens_out, "service_tier": "standard"}}


def _events(document: dict[str, Any], block: dict[str, Any], reply: Draft) -> list[bytes]:
    opened = document | {"content": [], "stop_reason": None}
    closing: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": document["stop_reason"], "stop_sequence": None},
    }
    if reply.usage is not None:
        opened["usage"] = document["usage"] | {"output_tokens": 1}
        closing["usage"] = {"output_tokens": reply.usage[1]}
    cleared: dict[str, Any] = {"input": {}} if reply.tool else {"text": ""}
    kind, name = ("input_json_delta", "partial_json") if reply.tool else ("text_delta", "text")
    deltas = ({"type": kind, name: piece} for piece in reply.pieces)
    steps: list[dict[str, Any]] = [
        {"type": "message_start", "message": opened},
        {"type": "content_block_start", "index": 0, "content_block": block | cleared},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        closing,
        {"type": "message_stop"},
    ]
    return [event(step) for step in steps]
