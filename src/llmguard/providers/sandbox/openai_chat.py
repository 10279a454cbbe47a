"""OpenAI chat completions and legacy completions."""

from __future__ import annotations

from typing import Any

from llmguard.providers.sandbox.answer import Answer, Ask, data, stream, whole
from llmguard.providers.sandbox.behaviour import Behaviour
from llmguard.providers.sandbox.draft import Draft, Prompt, Tool, ToolChoice, choices, draft, positive, texts_of

FINISH = {"stop": "stop", "length": "length", "tool": "tool_calls"}
DONE = b"data: [DONE]\n\n"
CHOICE: dict[str, ToolChoice] = {"required": "must", "none": "none"}
FINGERPRINT = "fp_sandbox"


def chat(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1/chat/completions`."""
    prompt = _read_chat(ask.doc)
    reply = draft(prompt, behaviour)
    call_id = ask.new_id("call_")
    kind = "chat.completion.chunk" if prompt.stream else "chat.completion"
    frame = _frame(ask, "chatcmpl-", kind, model)
    if prompt.stream:
        return stream(_chat_events(frame, reply, prompt.choices, call_id, _wants_usage(ask.doc)), behaviour)
    choice = {"message": _message(reply, call_id), "logprobs": None, "finish_reason": FINISH[reply.finish]}
    return whole(frame | {"choices": [{"index": n} | choice for n in range(prompt.choices)]} | _usage(reply), behaviour)


def completions(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1/completions`."""
    doc = ask.doc
    texts = texts_of(doc.get("prompt", ""))
    prompt = Prompt(texts, last=texts[-1] if texts else "", max_tokens=positive(doc.get("max_tokens")))
    prompt.choices = choices(doc.get("n"))
    reply = draft(prompt, behaviour)
    frame = _frame(ask, "cmpl-", "text_completion", model)
    indexes = range(prompt.choices)

    def part(text: str, finish: str | None) -> dict[str, Any]:
        return {"choices": [{"text": text, "index": n, "logprobs": None, "finish_reason": finish} for n in indexes]}

    if doc.get("stream") is not True:
        return whole(frame | part(reply.text, FINISH[reply.finish]) | _usage(reply), behaviour)
    events = [data(frame | part(piece, None)) for piece in reply.pieces]
    events.append(data(frame | part("", FINISH[reply.finish])))
    if _wants_usage(doc) and reply.usage:
        events.append(data(frame | {"choices": []} | _usage(reply)))
    return stream([*events, DONE], behaviour)


def _read_chat(doc: dict[str, Any]) -> Prompt:
    messages = doc["messages"]
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    form = doc.get("response_format")
    choice = doc.get("tool_choice")
    return Prompt(
        texts=texts_of(messages),
        last=" ".join(texts_of(last)),
        asked=last.get("role") == "user",
        tools=_tools(doc.get("tools")),
        choice=CHOICE.get(choice, "auto") if isinstance(choice, str) else "must" if choice else "auto",
        tool_name=_chosen(choice),
        schema=_schema(form) if isinstance(form, dict) else None,
        max_tokens=positive(doc.get("max_completion_tokens")) or positive(doc.get("max_tokens")),
        choices=choices(doc.get("n")),
        stream=doc.get("stream") is True,
    )


def _tools(offered: Any) -> list[Tool]:
    functions = [t.get("function") for t in offered if isinstance(t, dict)] if isinstance(offered, list) else []
    return [Tool(str(f.get("name")), f.get("parameters")) for f in functions if isinstance(f, dict)]


def _chosen(choice: Any) -> str | None:
    function = choice.get("function") if isinstance(choice, dict) else None
    return str(function.get("name")) if isinstance(function, dict) else None


def _schema(form: dict[str, Any]) -> dict[str, Any] | None:
    if form.get("type") == "json_object":
        return {"properties": {"reply": {"type": "string"}}}
    described = form.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    return schema if isinstance(schema, dict) else None


def _wants_usage(doc: dict[str, Any]) -> bool:
    options = doc.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _frame(ask: Ask, prefix: str, kind: str, model: str) -> dict[str, Any]:
    frame = {"id": ask.new_id(prefix), "object": kind, "created": ask.now, "model": model}
    return frame | {"system_fingerprint": FINGERPRINT}


def _message(reply: Draft, call_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    if reply.tool is None:
        return message
    function = {"name": reply.tool, "arguments": reply.text}
    return message | {"content": None, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def _usage(reply: Draft) -> dict[str, Any]:
    if reply.usage is None:
        return {}
    tokens_in, tokens_out = reply.usage
    return {
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }
    }


def _chat_events(frame: dict[str, Any], reply: Draft, count: int, call_id: str, usage: bool) -> list[bytes]:
    if usage:
        frame = frame | {"usage": None}

    def event(delta: dict[str, Any], finish: str | None = None) -> list[bytes]:
        choice = {"delta": delta, "logprobs": None, "finish_reason": finish}
        return [data(frame | {"choices": [{"index": n} | choice]}) for n in range(count)]

    if reply.tool is None:
        events = event({"role": "assistant", "content": "", "refusal": None})
        for piece in reply.pieces:
            events += event({"content": piece})
    else:
        call = {"index": 0, "id": call_id, "type": "function", "function": {"name": reply.tool, "arguments": ""}}
        events = event({"role": "assistant", "content": None, "tool_calls": [call]})
        for piece in reply.pieces:
            events += event({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    events += event({}, FINISH[reply.finish])
    if usage and reply.usage:
        events.append(data(frame | {"choices": []} | _usage(reply)))
    return [*events, DONE]
