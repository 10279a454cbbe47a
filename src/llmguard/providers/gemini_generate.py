"""Gemini's `generateContent`, `streamGenerateContent` and `countTokens`, at Google AI and at Vertex.

Counting tokens is free at the provider, so a `countTokens` call generates nothing and its route costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmguard.core.call import Call, Edits, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Reader
from llmguard.errors import BadCall
from llmguard.providers import objects
from llmguard.providers.base import decode, encode, member, splice, take_object, take_str, wrong
from llmguard.providers.gemini_common import (
    FAMILY,
    Media,
    check_model,
    spelled,
    strings,
    take_int32,
    take_objects,
)
from llmguard.providers.gemini_reply import ArrayReader, GeminiReader, error_body

MAX_CHOICES = 1_024

_CONFIG = ("generationConfig", "generation_config")
_SYSTEM = ("systemInstruction", "system_instruction")
_MAX_OUTPUT = ("maxOutputTokens", "max_output_tokens")
_CACHED = ("cachedContent", "cached_content")
_FUNCTIONS = frozenset({"functionDeclarations", "function_declarations"})


class GeminiGenerate:
    """The dialect `gemini_generate`. The model is named by the path."""

    name = "gemini_generate"
    family = FAMILY

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Understand a request for content, or for counting its tokens."""
        if not model:
            raise BadCall("The path names no model.", code="missing_field", param="model")
        body = request.body
        doc = decode(body)
        check_model(doc, model)
        media = Media()
        media.look(take_objects(doc, "contents"))
        media.look(_system(doc))
        tools = take_objects(doc, "tools")
        config = take_object(doc, spelled(doc, *_CONFIG)) or {}
        cached = take_str(doc, spelled(doc, *_CACHED))
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
            stream=endpoint.endswith(":streamGenerateContent"),
            max_tokens=take_int32(config, spelled(config, *_MAX_OUTPUT), param="generationConfig.maxOutputTokens"),
            choices=_choices(config),
            generates=not endpoint.endswith(":countTokens"),
            prompt_bytes=len(body) - media.encoded,
            extra_input_tokens=media.tokens,
            server_context=media.unseen or cached is not None or any(tool.keys() - _FUNCTIONS for tool in tools),
            audio=media.audio or _speaks(config),
            hidden_output=_thinks(config),
            reads=objects.GEMINI.named(body, doc),
        )

    def texts(self, call: Call) -> Sequence[str]:
        """Everything that the model reads: system instruction, tools, contents, arguments and results of functions."""
        doc = call.doc or {}
        texts = [encode(tool).decode() for tool in take_objects(doc, "tools")]
        texts.extend(strings(doc.get(spelled(doc, *_SYSTEM))))
        texts.extend(strings(doc.get("contents")))
        return texts

    def overhead_tokens(self, call: Call) -> int:
        """One token for each turn; Gemini adds no more."""
        return len(take_objects(call.doc or {}, "contents"))

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with a lower `maxOutputTokens`; a model is set only where the body repeats the path's."""
        doc = call.doc or {}
        changes = {}
        if edits.model is not None and doc.get("model") is not None:
            changes["model"] = encode(f"models/{edits.model}")
        if edits.max_tokens is not None:
            name = spelled(doc, *_CONFIG)
            config: dict[str, Any] = doc.get(name) or {}
            limit = {spelled(config, *_MAX_OUTPUT): b"%d" % edits.max_tokens}
            changes[name] = splice(member(call.body, name) if config else b"{}", limit, present=config)
        return splice(call.body, changes, present=doc)

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader; Gemini always reports usage, so there is nothing to ask for."""
        array = call.stream and not _wants_events(call.query)
        return ArrayReader(call.choices) if array else GeminiReader(call.choices)

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """An error as the API writes them."""
        return error_body(refuse, request_id)


def _system(doc: dict[str, Any]) -> list[dict[str, Any]]:
    name = spelled(doc, *_SYSTEM)
    value = doc.get(name)
    if value is None or type(value) is str:
        return []
    if type(value) is not dict:
        raise wrong(name, value, "an object")
    return [value]


def _choices(config: dict[str, Any]) -> int:
    name = spelled(config, "candidateCount", "candidate_count")
    count = take_int32(config, name, param="generationConfig.candidateCount")
    if count is not None and count > MAX_CHOICES:
        message = f"'generationConfig.candidateCount' must be at most {MAX_CHOICES}."
        raise BadCall(message, code="invalid_value", param="generationConfig.candidateCount")
    return count or 1


def _thinks(config: dict[str, Any]) -> bool:
    """Whether thoughts may be billed that no chunk shows: models think unless told not to."""
    name = spelled(config, "thinkingConfig", "thinking_config")
    thinking = take_object(config, name, param="generationConfig.thinkingConfig") or {}
    budget = spelled(thinking, "thinkingBudget", "thinking_budget")
    return take_int32(thinking, budget, minimum=-1, param="generationConfig.thinkingConfig.thinkingBudget") != 0


def _speaks(config: dict[str, Any]) -> bool:
    modalities = config.get(spelled(config, "responseModalities", "response_modalities"))
    wanted = modalities if type(modalities) is list else [modalities]
    return any(type(one) is str and one.upper() == "AUDIO" for one in wanted)


def _wants_events(query: str) -> bool:
    """Whether the stream comes as server-sent events; else it is one JSON array."""
    return any(pair in ("alt=sse", "$alt=sse", "%24alt=sse") for pair in query.split("&"))
