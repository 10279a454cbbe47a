"""The tier of service and the searches that requests ask for and replies report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmguard.core.call import Call, Request
from llmguard.core.ports import Reader
from llmguard.core.usage import Usage
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
    assert messages(inference_geo="us").service_tier == "@us"
    assert messages(speed="fast", inference_geo="us").service_tier == "fast@us"
    assert messages(speed="fast", inference_geo="global").service_tier == "fast"
    assert gemini(serviceTier="priority").service_tier == "priority"
    assert gemini(service_tier="FLEX").service_tier == "flex"


@pytest.mark.parametrize(
    "make",
    [
        lambda: chat(service_tier=3),
        lambda: responses(service_tier=["fast"]),
        lambda: messages(speed=True),
        lambda: messages(inference_geo=["us"]),
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


# ---------------------------------------------------------------------- replies


def whole(call: Call, dialect: Any, doc: Doc) -> Reader:
    reader: Reader = dialect.reader(call, asked_usage=False)
    reader.whole(200, "application/json", json.dumps(doc).encode())
    return reader


def streamed(call: Call, dialect: Any, *events: Doc) -> Reader:
    reader: Reader = dialect.reader(call, asked_usage=False)
    for event in events:
        reader.feed(b"data: %b\n\n" % json.dumps(event).encode())
    reader.flush()
    return reader


def searches(reader: Reader) -> tuple[int | None, int | None]:
    assert reader.usage is not None
    return reader.usage.web_searches, reader.usage.file_searches


def test_the_tier_that_served_a_chat() -> None:
    reply = {"id": "c", "model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    assert whole(chat(), OpenAIChat(), reply).service_tier is None
    assert whole(chat(), OpenAIChat(), reply | {"service_tier": "priority"}).service_tier == "priority"
    assert whole(chat(), OpenAIChat(), reply | {"service_tier": "auto"}).service_tier is None
    assert whole(chat(), OpenAIChat(), reply | {"service_tier": {"a": 1}}).service_tier is None
    in_usage = {"usage": reply["usage"] | {"service_tier": "standard"}}  # type: ignore[operator]
    assert whole(chat(), OpenAIChat(), reply | in_usage).service_tier == "standard"
    first = {"id": "c", "model": "gpt-4o", "choices": [{"delta": {"content": "a"}}]}
    last = {"id": "c", "choices": [], "usage": reply["usage"]}
    named = {"service_tier": "flex"}
    assert streamed(chat(stream=True), OpenAIChat(), first | named).service_tier == "flex"
    assert streamed(chat(stream=True), OpenAIChat(), first | named, last).service_tier == "flex"
    assert streamed(chat(stream=True), OpenAIChat(), first, last | named).service_tier == "flex"


def test_the_tier_and_the_searches_of_a_response() -> None:
    def search(action: str | None) -> Doc:
        return {"type": "web_search_call", "id": "ws", "action": action and {"type": action}}

    items = [search("search"), search("open_page"), search("find_in_page"), search(None), {"type": "file_search_call"}]
    usage = {"input_tokens": 3, "output_tokens": 1}
    reply = {"id": "r", "model": "gpt-5", "status": "completed", "service_tier": "priority", "usage": usage}
    found = whole(responses(), OpenAIResponses(), reply | {"output": items})
    assert (found.service_tier, searches(found)) == ("priority", (2, 1))
    assert searches(whole(responses(), OpenAIResponses(), reply)) == (None, None)
    told = {"output": items, "tool_usage": {"web_search": {"num_requests": 1}}}
    assert searches(whole(responses(), OpenAIResponses(), reply | told)) == (1, 1)
    grok = {"usage": usage | {"num_server_side_tools_used": 4}, "output": items}
    assert searches(whole(responses(), OpenAIResponses(), reply | grok)) == (4, 1)
    events = [
        {"type": "response.created", "response": {"id": "r", "service_tier": "auto"}},
        *({"type": "response.output_item.done", "item": item} for item in items),
        {"type": "response.completed", "response": reply | {"service_tier": "default"}},
    ]
    found = streamed(responses(stream=True), OpenAIResponses(), *events)
    assert (found.service_tier, searches(found)) == ("default", (2, 1))


def test_searches_that_chat_models_make_and_gateways_report() -> None:
    usage: Doc = {"prompt_tokens": 3, "completion_tokens": 1}
    reply = {"id": "c", "model": "m", "choices": [], "usage": usage}
    router = {"usage": usage | {"server_tool_use_details": {"web_search_requests": 2}}}
    assert searches(whole(chat(), OpenAIChat(), reply | router)) == (2, None)
    sonar = {"usage": usage | {"num_search_queries": 18}}
    assert searches(whole(chat(), OpenAIChat(), reply | sonar)) == (18, None)
    assert searches(whole(chat(), OpenAIChat(), reply | {"model": "gpt-4o-search-preview-2025-03-11"})) == (1, None)
    assert searches(whole(chat(), OpenAIChat(), reply)) == (None, None)


def test_the_place_that_a_message_was_served_in() -> None:
    usage: Doc = {"input_tokens": 10, "output_tokens": 5}
    reply = {"id": "m", "type": "message", "model": "claude-opus-5", "content": []}

    def tier(asked: str | None, **told: str) -> str | None:
        call = messages() if asked is None else messages(inference_geo=asked)
        return whole(call, AnthropicMessages(), reply | {"usage": usage | told}).service_tier

    assert tier(None) is None
    assert tier(None, inference_geo="us") == "@us"  # as its workspace is set
    assert tier(None, inference_geo="not_available", speed="standard") == "standard"
    assert tier("us", inference_geo="global", speed="standard") == "standard"
    assert tier("us", speed="fast") == "fast@us"  # the reply leaves it open
    assert tier("us", speed="standard", inference_geo="us") == "standard@us"
    begun = {"type": "message_start", "message": reply | {"usage": usage | {"inference_geo": "us"}}}
    ended = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}
    assert streamed(messages(stream=True), AnthropicMessages(), begun, ended).service_tier == "@us"


def test_the_speed_and_the_searches_of_a_message() -> None:
    usage: Doc = {
        "input_tokens": 10,
        "output_tokens": 5,
        "speed": "fast",
        "server_tool_use": {"web_search_requests": 3},
    }
    reply = {"id": "m", "type": "message", "model": "claude-opus-5", "content": [], "usage": usage}
    found = whole(messages(), AnthropicMessages(), reply)
    assert (found.service_tier, searches(found)) == ("fast", (3, None))
    assert searches(whole(messages(), AnthropicMessages(), reply | {"usage": usage | {"server_tool_use": None}})) == (
        None,
        None,
    )
    begun = reply | {"usage": {"input_tokens": 10, "output_tokens": 1, "speed": "standard", "service_tier": "priority"}}
    found = streamed(
        messages(stream=True),
        AnthropicMessages(),
        {"type": "message_start", "message": begun},
        {
            "type": "message_delta",
            "delta": {},
            "usage": {"output_tokens": 5, "server_tool_use": usage["server_tool_use"]},
        },
        {"type": "message_stop"},
    )
    assert (found.service_tier, searches(found)) == ("standard", (3, None))


def test_a_compaction_is_billed_beside_the_totals() -> None:
    compaction = {
        "type": "compaction",
        "input_tokens": 100_000,
        "output_tokens": 2_000,
        "cache_read_input_tokens": 50_000,
        "cache_creation_input_tokens": 0,
    }
    rounds = [compaction, {"type": "message", "input_tokens": 10, "output_tokens": 5}]
    usage = {"input_tokens": 10, "output_tokens": 5, "iterations": rounds}
    reply = {"id": "m", "type": "message", "model": "claude-opus-5", "content": [], "usage": usage}
    found = whole(messages(), AnthropicMessages(), reply).usage
    assert found == Usage(150_010, 2_005, cached_input_tokens=50_000, cache_write_tokens=0)


@pytest.mark.parametrize(("model", "billed"), [("gemini-3-flash-preview", 2), ("gemini-2.5-pro", 1)])
def test_the_queries_that_google_bills(model: str, billed: int) -> None:
    def chunk(queries: object, **more: Any) -> Doc:
        return {
            "candidates": [{"content": {"parts": [{"text": "a"}]}, "groundingMetadata": queries} | more],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1, "serviceTier": "PRIORITY"},
            "modelVersion": model,
        }

    asked = {"webSearchQueries": ["", "weather in Rome", "weather in Rome", "rain"]}
    found = whole(gemini(model), GeminiGenerate(), chunk(asked, finishReason="STOP"))
    assert (found.service_tier, searches(found)) == ("priority", (billed, None))
    path = "/v1beta/models/{model}:streamGenerateContent"
    call = GeminiGenerate().parse(Request("POST", path, "alt=sse", {}, b'{"contents":[]}'), path, model)
    first, last = chunk({"webSearchQueries": ["rain"]}), chunk({"webSearchQueries": ["sun"]}, finishReason="STOP")
    assert searches(streamed(call, GeminiGenerate(), first, last)) == (billed, None)
    odd = chunk({"webSearchQueries": 3}, finishReason="STOP")
    assert searches(whole(gemini(model), GeminiGenerate(), odd)) == (None, None)
