"""Anthropic's Messages API: `/v1/messages` and `/v1/messages/count_tokens`.

Counting tokens is free at the provider, so a `count_tokens` call generates nothing and its route costs nothing; only
request limits see it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmguard.core.call import Call, Edits, ObjectRef, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.errors import BadCall
from llmguard.providers import objects
from llmguard.providers.anthropic_reply import MessagesReader, error_body, tier_word
from llmguard.providers.base import (
    decode,
    encode,
    most_searches,
    need_str,
    splice,
    take_bool,
    take_int,
    take_list,
    take_object,
    take_str,
    wrong,
)

IMAGE_TOKENS = 4_800
"""Most tokens of one image: 2,576 pixels of edge at 28 × 28 pixels a token (docs "Images and vision")."""
PAGE_TOKENS = 4_600
"""Most tokens of a PDF page: 3,000 of dense text and its picture (docs "PDF support")."""
PAGE_BYTES = 4_096
"""Fewest bytes of a page with so much text, compressed."""
MOST_PAGES = 600
TOOL_TOKENS = 700
"""Most tokens of the system prompt that any tool brings with it (530, docs "Tool use pricing", and its framing)."""
BUILT_IN_TOOL_TOKENS = 1_500
"""Most tokens of a tool that Anthropic defines and the body only names; `memory` has about 1,350."""
CITATION_TOKENS = 600
"""What the instructions for citing add: about 520."""
FRAME_TOKENS = 4
MESSAGE_TOKENS = 4

_CLIENT_TOOLS = ("bash_", "computer_", "memory_", "text_editor_")
"""Types of Anthropic's tools that the caller runs."""
_PLAIN = frozenset({"model", "messages", "max_tokens", "stream", "system", "temperature", "tools", "tool_choice"}) | {
    "inference_geo",
    "metadata",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "thinking",
    "top_k",
    "top_p",
}
"""Members that name no objects, or are looked at on their own."""
_SILENT = re.compile(r"claude-(?:instant|[123]\b|(?:opus|sonnet|haiku)-[34]\b)")
"""Models that think only when told to; later ones do unless told not to."""
_SILENT_LEAVES = frozenset({"cache_control", "data", "encrypted_content", "encrypted_index", "id", "media_type"}) | {
    "signature",
    "tool_use_id",
    "type",
}


@dataclass(slots=True)
class _Prompt:
    """What a prompt has beside its text.

    ``encoded`` bytes of base64, ``tokens`` of media, tools and instructions, ``unseen`` input that lies or comes from
    elsewhere, parts that are to be ``cached`` and ``cited``, how often it may search the web, and the objects at the
    provider that it names.
    """

    encoded: int = 0
    tokens: int = 0
    unseen: bool = False
    cached: bool = False
    cited: bool = False
    searches: int = 0
    reads: tuple[ObjectRef, ...] = ()

    def tools(self, tools: list[Any]) -> None:
        """Look at the tools. What one that runs at the provider fetches becomes input that no request shows."""
        self.tokens += TOOL_TOKENS
        for tool in tools:
            if type(tool) is not dict:
                raise wrong("tools", tool, "an array of objects")
            self.cached = self.cached or "cache_control" in tool
            kind = take_str(tool, "type", param="tools.type")
            if kind is not None and kind != "custom":
                self.tokens += BUILT_IN_TOOL_TOKENS
                self.unseen = self.unseen or not kind.startswith(_CLIENT_TOOLS)
                if kind.startswith("web_search"):
                    self.searches += most_searches(take_int(tool, "max_uses", param="tools.max_uses"))
                self.names(tool)

    def names(self, value: dict[str, Any]) -> None:
        """Note the objects that a part of the body names."""
        self.reads += tuple(objects.ANTHROPIC.walk(value))

    def blocks(self, blocks: list[Any], param: str) -> None:
        """Look at content blocks; plain text has nothing to see."""
        for block in blocks:
            if type(block) is not dict:
                raise wrong(param, block, "an array of objects")
            if len(block) > 2 or block.get("type") != "text":
                self.names(block)
                self._block(block)

    def _block(self, block: dict[str, Any]) -> None:
        self.cached = self.cached or "cache_control" in block
        self.cited = self.cited or "citations" in block
        source = block.get("source")
        if type(source) is dict:
            self._source(block.get("type"), source)
        self._inside(block.get("content"))

    def _inside(self, content: object) -> None:
        for block in content if type(content) is list else (content,):
            if type(block) is dict:
                self._block(block)

    def _source(self, kind: object, source: dict[str, Any]) -> None:
        match source.get("type"):
            case "base64":
                size = len(take_str(source, "data", param="source.data") or "")
                self.encoded += size
                self.tokens += (
                    IMAGE_TOKENS if kind == "image" else PAGE_TOKENS * min(size // PAGE_BYTES + 1, MOST_PAGES)
                )
            case "url" if kind == "image":
                self.tokens += IMAGE_TOKENS
            case "content":
                self._inside(source.get("content"))
            case "text":
                pass
            case _:
                self.unseen = True


class AnthropicMessages:
    """The dialect `anthropic_messages`."""

    name = "anthropic_messages"
    family = "anthropic"

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request for a message, or for counting its tokens."""
        body = request.body
        doc = decode(body)
        name = model or need_str(doc, "model")
        if doc.get("fallbacks"):
            message = "'fallbacks' is not accepted: another model than the one named would be served at another price."
            raise BadCall(message, code="unsupported_field", param="fallbacks")
        prompt = _read_prompt(doc)
        metadata = take_object(doc, "metadata")
        return Call(
            self.name,
            self.family,
            endpoint,
            request.method,
            request.path,
            request.query,
            request.headers,
            body,
            name,
            doc,
            stream=take_bool(doc, "stream") or False,
            max_tokens=take_int(doc, "max_tokens"),
            generates=not endpoint.endswith("/count_tokens"),
            end_user=take_str(metadata, "user_id", param="metadata.user_id") if metadata else None,
            prompt_bytes=len(body) - prompt.encoded,
            extra_input_tokens=prompt.tokens,
            server_context=prompt.unseen,
            writes_cache=prompt.cached,
            hidden_output=_thinks(doc, name),
            # Not `service_tier`: Priority Tier is capacity bought beforehand, its tokens have no price of their own.
            service_tier=tier_word(take_str(doc, "speed"), take_str(doc, "inference_geo")),
            web_searches=prompt.searches,
            reads=tuple(dict.fromkeys(prompt.reads)) if prompt.reads else (),
        )

    def texts(self, call: Call) -> Sequence[str]:
        """Everything that the model reads: system prompt, tools, messages, and the arguments of earlier tool calls."""
        doc = call.doc or {}
        texts = [encode(tool).decode() for tool in doc.get("tools") or ()]
        texts.extend(_strings(doc.get("system")))
        for message in doc.get("messages") or ():
            texts.extend(_strings(message.get("content")))
        return texts

    def overhead_tokens(self, call: Call) -> int:
        """Tokens of roles and turns; those of tools are in the call's ``extra_input_tokens``."""
        return FRAME_TOKENS + MESSAGE_TOKENS * len((call.doc or {}).get("messages") or ())

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with another model or a lower `max_tokens`; a thinking budget must stay below it, so it follows."""
        doc = call.doc or {}
        changes = {}
        if edits.model is not None and "model" in doc:
            changes["model"] = encode(edits.model)
        if edits.max_tokens is not None:
            changes["max_tokens"] = b"%d" % edits.max_tokens
            thinking = doc.get("thinking") or {}
            if (thinking.get("budget_tokens") or 0) >= edits.max_tokens > MIN_THINKING:
                changes["thinking"] = encode(thinking | {"budget_tokens": edits.max_tokens - 1})
        return splice(call.body, changes, present=doc)

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader; Anthropic always reports usage, so there is nothing to ask for."""
        doc = call.doc or {}
        return MessagesReader(doc.get("inference_geo"))

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """An error as the API writes them."""
        return error_body(refuse, request_id)


MIN_THINKING = 1_024
"""The smallest thinking budget the API takes."""


def _read_prompt(doc: dict[str, Any]) -> _Prompt:
    prompt = _Prompt()
    if tools := take_list(doc, "tools"):
        prompt.tools(tools)
    _content(prompt, doc.get("system"), "system")
    for message in take_list(doc, "messages") or ():
        if type(message) is not dict:
            raise wrong("messages", message, "an array of objects")
        content = message.get("content")
        if type(content) is not str:
            _content(prompt, content, "messages.content")
    if prompt.cited:
        prompt.tokens += CITATION_TOKENS
    for name, value in doc.items():
        if name not in _PLAIN:
            prompt.cached = prompt.cached or name == "cache_control"
            prompt.unseen = prompt.unseen or (name == "mcp_servers" and bool(value))
            prompt.names({name: value})
    return prompt


def _content(prompt: _Prompt, content: object, param: str) -> None:
    if type(content) is list:
        prompt.blocks(content, param)
    elif content is not None and type(content) is not str:
        raise wrong(param, content, "a string or an array")


def _thinks(doc: dict[str, Any], model: str) -> bool:
    """Whether the answer may contain thinking, which is billed whole and streamed as a summary or not at all."""
    thinking = take_object(doc, "thinking")
    if thinking is None:
        return _thinks_unasked(model)
    take_int(thinking, "budget_tokens", param="thinking.budget_tokens")
    return take_str(thinking, "type", param="thinking.type") != "disabled"


@lru_cache(1024)
def _thinks_unasked(model: str) -> bool:
    return _SILENT.search(model) is None


def _strings(value: object) -> Iterator[str]:
    """The texts in content, without what is no text to the model."""
    if type(value) is str:
        yield value
    elif type(value) is list:
        for item in value:
            yield from _strings(item)
    elif type(value) is dict:
        for name, inner in value.items():
            if name == "input":
                yield encode(inner).decode()
            elif name not in _SILENT_LEAVES or (name == "data" and value.get("type") == "text"):
                yield from _strings(inner)
