"""The tier of service and the searches that requests ask for and replies report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmguard.core.call import Call, Request
from llmguard.errors import BadCall
from llmguard.providers.anthropic_messages import AnthropicMessages
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_responses import OpenAIResponses

Doc = dict[str, Any]


def _parse(dialect: Any, path: str, doc: Doc, model: str | None = None) -> Call:
    call = dialect.parse(Request("POST", path, "", {}, json.dumps(doc).encode()), path, model)
    assert isinstance(call, Call)
    return call


def chat(**fields: Any) -> Call:
    return _parse(OpenAIChat(), "/v1/chat/completions", {"model": "gpt-4o", "messages": []} | fields)


def responses(**fields: Any) -> Call:
    return _parse(OpenAIResponses(), "/v1/responses", {"model": "gpt-5", "input": "hi"} | fields)


def messages(**fields: Any) -> Call:
    return _parse(AnthropicMessages(), "/v1/messages", {"model": "claude-opus-5", "messages": []} | fields)


def gemini(model: str = "gemini-3-flash-preview", **fields: Any) -> Call:
    return _parse(GeminiGenerate(), "/v1beta/models/{model}:generateContent", {"contents": []} | fields, model)


def test_the_tier_that_a_request_asks_for() -> None:
    assert chat().service_tier is None
    assert chat(service_tier="priority").service_tier == "priority"
    assert chat(service_tier=None).service_tier is None
    assert responses(service_tier="flex").service_tier == "flex"
    assert messages(speed="fast", service_tier="auto").service_tier == "fast"
    assert messages(service_tier="auto").service_tier is None  # Priority Tier is bought beforehand
    assert gemini(serviceTier="priority").service_tier == "priority"
    assert gemini(service_tier="FLEX").service_tier == "flex"


@pytest.mark.parametrize(
    "make",
    [
        lambda: chat(service_tier=3),
        lambda: responses(service_tier=["fast"]),
        lambda: messages(speed=True),
        lambda: gemini(serviceTier=3),
        lambda: gemini(serviceTier="flex", service_tier="priority"),
    ],
)
def test_a_tier_of_another_type_is_refused(make: Any) -> None:
    with pytest.raises(BadCall):
        make()


def test_the_searches_that_a_request_allows() -> None:
    assert (chat().web_searches, responses().web_searches, messages().web_searches, gemini().web_searches) == (0,) * 4
    function = {"type": "function", "function": {"name": "search"}}
    assert chat(tools=[function]).web_searches == 0
    assert chat(web_search_options={}).web_searches == 20
    assert chat(tools=[{"type": "openrouter:web_search"}]).web_searches == 20
    assert chat(model="gpt-4o-search-preview").web_searches == 20
    web, files = {"type": "web_search_preview"}, {"type": "file_search", "vector_store_ids": []}
    assert (responses(tools=[web]).web_searches, responses(tools=[web]).file_searches) == (20, 0)
    both = responses(tools=[web, files], max_tool_calls=3)
    assert (both.web_searches, both.file_searches) == (3, 3)
    assert responses(tools=[{"type": "function", "name": "web_search"}], max_tool_calls=3).web_searches == 0
    assert responses(tools=[{"type": "tool_search"}]).web_searches == 0
    assert responses(model="o3-deep-research", tools=[web]).web_searches == 200


def test_the_searches_that_a_claude_or_gemini_request_allows() -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    assert messages(tools=[tool]).web_searches == 20
    assert messages(tools=[tool | {"max_uses": 5}]).web_searches == 5
    assert messages(tools=[tool | {"max_uses": 10**18}]).web_searches == 1_000
    assert messages(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}]).web_searches == 0
    assert messages(tools=[{"name": "web_search", "input_schema": {}}]).web_searches == 0
    with pytest.raises(BadCall):
        messages(tools=[tool | {"max_uses": "many"}])
    assert gemini(tools=[{"google_search": {}}]).web_searches == 20
    assert gemini("gemini-2.5-flash", tools={"googleSearch": {}}).web_searches == 1  # billed by the prompt
    assert gemini(tools=[{"functionDeclarations": []}, {"urlContext": {}}]).web_searches == 0


@pytest.mark.parametrize("kind", [["web_search"], {"a": 1}, 3])
def test_a_tool_of_an_odd_type_costs_nothing_but_itself(kind: Any) -> None:
    assert responses(tools=[{"type": kind}]).web_searches == 0
    assert chat(tools=[{"type": kind}]).web_searches in (0, 20)
