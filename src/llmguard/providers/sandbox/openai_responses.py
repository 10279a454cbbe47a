"""OpenAI responses: created, read back, continued and deleted."""

from __future__ import annotations

from typing import Any

from llmguard.providers.sandbox.answer import Answer, Ask, error, event, stream, whole
from llmguard.providers.sandbox.behaviour import Behaviour
from llmguard.providers.sandbox.draft import Draft, Prompt, Tool, draft, positive, texts_of
from llmguard.providers.sandbox.openai_chat import CHOICE
from llmguard.providers.sandbox.shelf import Item

# Fields that a response repeats from its request, with what stands there when the request says nothing.
REPEATED: dict[str, Any] = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "max_output_tokens": None,
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "store": True,
    "background": False,
}


def create(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1/responses`. The texts of the response that it continues count as input again."""
    doc = ask.doc
    history: list[str] = []
    if previous := doc.get("previous_response_id"):
        kept = ask.shelf.get("response", str(previous))
        if kept is None:
            message = "Previous response was not found."
            return error("openai", 400, message, ask.new_id("req_"), code="previous_response_not_found")
        history = kept.texts
    prompt = _read(doc, history)
    reply = draft(prompt, behaviour)
    output = _output(ask, reply)
    document = _document(ask, model, reply, output)
    if doc.get("store") is not False:
        ask.shelf.put("response", document["id"], Item(document, texts=[*prompt.texts, reply.text]))
    return stream(_events(document, output, reply), behaviour) if prompt.stream else whole(document, behaviour)


def _read(doc: dict[str, Any], history: list[str]) -> Prompt:
    items = doc["input"]
    last = items[-1] if isinstance(items, list) and items else items
    choice = doc.get("tool_choice")
    offered = doc.get("tools")
    tools = [t for t in offered if isinstance(t, dict) and "name" in t] if isinstance(offered, list) else []
    return Prompt(
        texts=[*history, *texts_of(doc.get("instructions") or []), *texts_of(items)],
        last=" ".join(texts_of(last)),
        asked=isinstance(last, str) or (isinstance(last, dict) and last.get("role") == "user"),
        tools=[Tool(str(t["name"]), t.get("parameters")) for t in tools],
        choice=CHOICE.get(choice, "auto") if isinstance(choice, str) else "must" if choice else "auto",
        tool_name=choice.get("name") if isinstance(choice, dict) else None,
        schema=_schema(doc.get("text")),
        max_tokens=positive(doc.get("max_output_tokens")),
        stream=doc.get("stream") is True,
    )


def _schema(text: Any) -> dict[str, Any] | None:
    form = text.get("format") if isinstance(text, dict) else None
    schema = form.get("schema") if isinstance(form, dict) else None
    return schema if isinstance(schema, dict) else None


def _output(ask: Ask, reply: Draft) -> dict[str, Any]:
    status = "incomplete" if reply.finish == "length" else "completed"
    if reply.tool is not None:
        call = {"id": ask.new_id("fc_"), "type": "function_call", "status": status, "call_id": ask.new_id("call_")}
        return call | {"name": reply.tool, "arguments": reply.text}
    content = [_part(reply.text)]
    return {"id": ask.new_id("msg_"), "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _document(ask: Ask, model: str, reply: Draft, output: dict[str, Any]) -> dict[str, Any]:
    cut = reply.finish == "length"
    document = {
        "id": ask.new_id("resp_"),
        "object": "response",
        "created_at": ask.now,
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": model,
        "output": [output],
        "reasoning": {"effort": None, "summary": None},
        **{name: ask.doc.get(name, default) for name, default in REPEATED.items()},
    }
    if reply.usage is None:
        return document
    tokens_in, tokens_out = reply.usage
    usage = {
        "input_tokens": tokens_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens_in + tokens_out,
    }
    return document | {"usage": usage}


def _events(document: dict[str, Any], output: dict[str, Any], reply: Draft) -> list[bytes]:
    opened = document | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    emptied: dict[str, Any] = {"arguments": ""} if reply.tool else {"content": []}
    steps: list[dict[str, Any]] = [
        {"type": "response.created", "response": opened},
        {"type": "response.in_progress", "response": opened},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": output | {"status": "in_progress"} | emptied,
        },
        *(_call_steps(output, reply) if reply.tool else _text_steps(output, reply)),
        {"type": "response.output_item.done", "output_index": 0, "item": output},
        {"type": f"response.{document['status']}", "response": document},
    ]
    return [event(step | {"sequence_number": number}) for number, step in enumerate(steps)]


def _text_steps(output: dict[str, Any], reply: Draft) -> list[dict[str, Any]]:
    place = {"item_id": output["id"], "output_index": 0, "content_index": 0}
    delta = {"type": "response.output_text.delta", **place, "logprobs": []}
    return [
        {"type": "response.content_part.added", **place, "part": _part("")},
        *(delta | {"delta": piece} for piece in reply.pieces),
        {"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _part(reply.text)},
    ]


def _call_steps(output: dict[str, Any], reply: Draft) -> list[dict[str, Any]]:
    place = {"item_id": output["id"], "output_index": 0}
    done = {"type": "response.function_call_arguments.done", **place, "name": reply.tool, "arguments": reply.text}
    delta = {"type": "response.function_call_arguments.delta", **place}
    return [*(delta | {"delta": piece} for piece in reply.pieces), done]
