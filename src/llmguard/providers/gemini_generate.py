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
from llmguard.providers.base import MOST_SEARCHES, decode, encode, member, splice, take_object, take_str, wrong
from llmguard.providers.gemini_array import ArrayReader
from llmguard.providers.gemini_common import (
    FAMILY,
    Prompt,
    both_spellings,
    check_model,
    searches_per_prompt,
    spellings,
    strings,
    take_int32,
    take_objects,
)
from llmguard.providers.gemini_reply import GeminiReader, error_body

MAX_CHOICES = 1_024

_FIELDS = both_spellings(
    "cachedContent",
    "contents",
    "generationConfig",
    "labels",
    "model",
    "safetySettings",
    "serviceTier",
    "systemInstruction",
    "toolConfig",
    "tools",
)
_SETTINGS = both_spellings("candidateCount", "maxOutputTokens", "responseModalities", "thinkingConfig")
_THINKING = both_spellings("thinkingBudget")
_FUNCTIONS = frozenset(both_spellings("functionDeclarations"))
_SEARCHES = frozenset(both_spellings("googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"))


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
        names = spellings(doc, _FIELDS)
        prompt = _read_prompt(doc, names)
        config = take_object(doc, names.get("generationConfig", "")) or {}
        settings = spellings(config, _SETTINGS)
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
            max_tokens=_max_output(config, settings),
            choices=_choices(config, settings),
            generates=not endpoint.endswith(":countTokens"),
            prompt_bytes=len(body) - prompt.encoded,
            extra_input_tokens=prompt.tokens,
            server_context=prompt.unseen,
            audio=prompt.audio or _speaks(config, settings),
            hidden_output=_thinks(config, settings),
            service_tier=_tier(doc, names),
            web_searches=_most_searches(model) if prompt.searches else 0,
            reads=tuple(dict.fromkeys(prompt.reads)) if prompt.reads else (),
        )

    def texts(self, call: Call) -> Sequence[str]:
        """Everything that the model reads: system instruction, tools, contents, arguments and results of functions."""
        doc = call.doc or {}
        texts = [encode(tool).decode() for tool in take_objects(doc, "tools")]
        texts.extend(strings(doc.get(spellings(doc, _FIELDS).get("systemInstruction", ""))))
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
            name = spellings(doc, _FIELDS).get("generationConfig", "generationConfig")
            config: dict[str, Any] = doc.get(name) or {}
            own_name = spellings(config, _SETTINGS).get("maxOutputTokens", "maxOutputTokens")
            limit = {own_name: b"%d" % edits.max_tokens}
            changes[name] = splice(member(call.body, name) if config else b"{}", limit, present=config)
        return splice(call.body, changes, present=doc)

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A fresh reader; Gemini always reports usage, so there is nothing to ask for."""
        array = call.stream and not _wants_events(call.query)
        return ArrayReader(call.choices) if array else GeminiReader(call.choices)

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """An error as the API writes them."""
        return error_body(refuse, request_id)


def _read_prompt(doc: dict[str, Any], names: dict[str, str]) -> Prompt:
    prompt = Prompt()
    prompt.contents(take_objects(doc, "contents"))
    if "systemInstruction" in names:
        prompt.contents(_system(doc, names["systemInstruction"]))
    if "tools" in names:
        for tool in take_objects(doc, "tools"):
            if tool.keys() - _FUNCTIONS:
                prompt.unseen = True
                prompt.searches = prompt.searches or not _SEARCHES.isdisjoint(tool)
                prompt.other("tools", tool)
    if "cachedContent" in names:
        cached = take_str(doc, names["cachedContent"])
        prompt.unseen = prompt.unseen or cached is not None
        prompt.other("cachedContent", cached)
    if len(names) < len(doc):
        for name in doc.keys() - _FIELDS.keys():
            prompt.other(name, doc[name])
    return prompt


def _tier(doc: dict[str, Any], names: dict[str, str]) -> str | None:
    tier = take_str(doc, names["serviceTier"]) if "serviceTier" in names else None
    return tier.lower() if tier else None


def _most_searches(model: str) -> int:
    return 1 if searches_per_prompt(model) else MOST_SEARCHES


def _system(doc: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = doc[name]
    if value is None or type(value) is str:
        return []
    if type(value) is not dict:
        raise wrong(name, value, "an object")
    return [value]


def _max_output(config: dict[str, Any], settings: dict[str, str]) -> int | None:
    name = settings.get("maxOutputTokens")
    return None if name is None else take_int32(config, name, param="generationConfig.maxOutputTokens")


def _choices(config: dict[str, Any], settings: dict[str, str]) -> int:
    name = settings.get("candidateCount")
    if name is None:
        return 1
    count = take_int32(config, name, param="generationConfig.candidateCount")
    if count is not None and count > MAX_CHOICES:
        message = f"'generationConfig.candidateCount' must be at most {MAX_CHOICES}."
        raise BadCall(message, code="invalid_value", param="generationConfig.candidateCount")
    return count or 1


def _thinks(config: dict[str, Any], settings: dict[str, str]) -> bool:
    """Whether thoughts may be billed that no chunk shows: models think unless told not to."""
    name = settings.get("thinkingConfig")
    if name is None:
        return True
    thinking = take_object(config, name, param="generationConfig.thinkingConfig") or {}
    budget = spellings(thinking, _THINKING).get("thinkingBudget", "")
    return take_int32(thinking, budget, minimum=-1, param="generationConfig.thinkingConfig.thinkingBudget") != 0


def _speaks(config: dict[str, Any], settings: dict[str, str]) -> bool:
    name = settings.get("responseModalities")
    if name is None:
        return False
    modalities = config[name]
    wanted = modalities if type(modalities) is list else [modalities]
    return any(type(one) is str and one.upper() == "AUDIO" for one in wanted)


def _wants_events(query: str) -> bool:
    """Whether the stream comes as server-sent events; else it is one JSON array."""
    return any(pair in ("alt=sse", "$alt=sse", "%24alt=sse") for pair in query.split("&"))
