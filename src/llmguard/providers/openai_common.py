"""What the three OpenAI dialects share: error shape, usage objects, and the user they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.errors import BadCall
from llmguard.providers.base import encode, llmguard_object, need_str, take_str

FAMILY = "openai"

MAX_OUTPUT = 2**31 - 1
MAX_CHOICES = 1024
MAX_MODEL_NAME = 256

_TYPES = {
    "budget_exceeded": "insufficient_quota",
    "budget_insufficient": "insufficient_quota",
    "request_exceeds_budget": "insufficient_quota",
}
_TYPES_BY_STATUS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


_OPENAI_REASONS = re.compile(r"(?:^|[/.:@])(?:o[1-9]|gpt-[5-9])(?![a-z])")
_OTHERS_REASON = re.compile(r"(?:^|[/.:@~])(?:grok-[4-9]|gemini-(?:2\.5|[3-9]|flash|pro))")


def model_name(doc: Mapping[str, Any], in_path: str | None) -> str:
    """The model that a call names: in its path (Azure), else in its body."""
    name = in_path or need_str(doc, "model")
    if len(name) > MAX_MODEL_NAME:
        raise BadCall(f"'model' must have at most {MAX_MODEL_NAME} characters.", code="invalid_value", param="model")
    return name


@lru_cache
def is_reasoning_model(model: str) -> bool:
    """Whether a name is one of OpenAI's reasoning models (o1 … o4, gpt-5 and later), by whatever door."""
    return _OPENAI_REASONS.search(model) is not None


def hides_output(model: str, effort: object) -> bool:
    """Whether output is billed that no stream shows: reasoning, unless the caller's effort is `none`.

    OpenAI, xAI and Google hide it; others show theirs, but whoever is asked for an effort may hide it too.
    """
    if effort == "none":
        return False
    return effort is not None or _reasons_unseen(model)


@lru_cache
def _reasons_unseen(model: str) -> bool:
    return is_reasoning_model(model) or _OTHERS_REASON.search(model) is not None


@lru_cache
def always_searches(model: str) -> bool:
    """Whether a name is one of OpenAI's models that search the web before every answer, and do not report it."""
    return "-search-preview" in model or "-search-api" in model


def tier_served(word: object) -> str | None:
    """The tier that a reply names, unless it only repeats that the provider shall choose one."""
    return word if type(word) is str and word and word != "auto" else None


def error_object(refuse: Refuse, request_id: str) -> dict[str, Any]:
    """The ``error`` object of OpenAI's API, with the `llmguard` object inside."""
    fallback = "server_error" if refuse.status >= 500 else "invalid_request_error"
    return {
        "message": refuse.message,
        "type": _TYPES.get(refuse.code) or _TYPES_BY_STATUS.get(refuse.status, fallback),
        "code": refuse.code,
        "param": refuse.param,
        "llmguard": llmguard_object(refuse, request_id),
    }


def refusal(refuse: Refuse, request_id: str) -> bytes:
    """The body of an error reply."""
    return encode({"error": error_object(refuse, request_id)})


def error_member(refuse: Refuse, request_id: str) -> bytes:
    """The encoded member that makes a stream event an error: the OpenAI SDKs raise when an event has it."""
    return b'"error":' + encode(error_object(refuse, request_id))


def end_user(doc: Mapping[str, Any]) -> str | None:
    """Whom the caller acts for: ``safety_identifier``, or its predecessor ``user``."""
    older = take_str(doc, "user")
    return take_str(doc, "safety_identifier") or older or None


_CACHED = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens", "cache_read_input_tokens")


def _count(holder: Mapping[str, Any], *names: str) -> int | None:
    """The first of several names under which providers report the same count."""
    for name in names:
        value = holder.get(name)
        if type(value) is int and value >= 0:
            return value
    return None


def _part(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = usage.get(name)
    return part if type(part) is dict else {}


def chat_usage(usage: Mapping[str, Any]) -> Usage | None:
    """Usage as chat completions, completions and embeddings report it; ``None`` when it names no tokens."""
    return (_plain_usage(usage) if _PLAIN.issuperset(usage) else None) or _any_usage(usage)


_PLAIN = frozenset(
    ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details")
)
_NO_PART: Mapping[str, Any] = {}


def _plain_usage(usage: Mapping[str, Any]) -> Usage | None:
    """The same in OpenAI's own words, which most replies use; ``None`` where one of them is not as it should be."""
    get = usage.get
    prompt, answer = get("prompt_tokens_details") or _NO_PART, get("completion_tokens_details") or _NO_PART
    try:
        reasoning, audio = answer.get("reasoning_tokens"), prompt.get("audio_tokens")
        found = Usage(
            get("prompt_tokens"),  # type: ignore[arg-type]
            get("completion_tokens"),  # type: ignore[arg-type]
            prompt.get("cached_tokens"),
            prompt.get("cache_write_tokens"),
            reasoning,
            None,
            audio,
            output_audio_tokens=answer.get("audio_tokens"),
        )
        # Outside the totals, or no numbers: the long way decides.
        if (reasoning or audio) and get("total_tokens") != found.input_tokens + found.output_tokens:
            return None
    except (AttributeError, TypeError):
        return None
    if type(found.input_tokens) is not int or type(found.output_tokens) is not int:
        return None
    for count in (found.cached_input_tokens, found.cache_write_tokens, reasoning, audio, found.output_audio_tokens):
        if count is not None and (type(count) is not int or count < 0):
            return None
    return found if found.input_tokens >= 0 and found.output_tokens >= 0 else None


def _any_usage(usage: Mapping[str, Any]) -> Usage | None:
    """Usage in any of the words in use.

    Beside OpenAI's names: ``prompt_cache_hit_tokens`` (DeepSeek), ``num_cached_tokens`` (Mistral), ``cached_tokens``
    (Moonshot), ``cache_read_input_tokens`` and ``cache_creation`` (gateways to Anthropic). Where the total is input +
    output + reasoning, the provider (xAI) left reasoning out of the output, and it is added; audio that is left out of
    the input (Mistral) likewise. Searches are reported by OpenRouter and Perplexity (``num_search_queries``).
    """
    read, output, total = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if read is None and output is None:
        if total is None:
            return None
        read = total
    read, output = read or 0, output or 0
    prompt, answer = _part(usage, "prompt_tokens_details"), _part(usage, "completion_tokens_details")
    reasoning = _count(answer, "reasoning_tokens")
    if reasoning is None:
        reasoning = _count(usage, "reasoning_tokens")
    if reasoning and total == read + output + reasoning:
        output += reasoning
    audio = _count(prompt, "audio_tokens")
    if audio and total == read + output + audio:
        read += audio
    cached, written = _count(prompt, "cached_tokens"), _count(prompt, "cache_write_tokens")
    searches = _count(_part(usage, "server_tool_use_details"), "web_search_requests")
    return Usage(
        read,
        output,
        _count(usage, *_CACHED) if cached is None else cached,
        _count(usage, "cache_creation_input_tokens") if written is None else written,
        reasoning,
        _count(_part(usage, "cache_creation"), "ephemeral_1h_input_tokens"),
        audio,
        output_audio_tokens=_count(answer, "audio_tokens"),
        web_searches=_count(usage, "num_search_queries") if searches is None else searches,
    )


def web_searches_in(tool_usage: object) -> int | None:
    """The searches that a response says are billed; ``None`` where it does not say."""
    return _count(_part(tool_usage, "web_search"), "num_requests") if type(tool_usage) is dict else None


def responses_usage(usage: Mapping[str, Any]) -> Usage | None:
    """Usage as the Responses API reports it; ``None`` when it names no tokens.

    xAI's tools at the server cost the same per use as its web search, or less, and count as that.
    """
    read, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if read is None and output is None:
        return None
    prompt, answer = _part(usage, "input_tokens_details"), _part(usage, "output_tokens_details")
    return Usage(
        read or 0,
        output or 0,
        _count(prompt, "cached_tokens"),
        _count(prompt, "cache_write_tokens"),
        _count(answer, "reasoning_tokens"),
        None,
        _count(prompt, "audio_tokens"),
        output_audio_tokens=_count(answer, "audio_tokens"),
        web_searches=_count(usage, "num_server_side_tools_used"),
    )
