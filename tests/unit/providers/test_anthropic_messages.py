"""What the Anthropic dialect reads from a request, and the edits it makes to one."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.core.call import Call, Edits, ObjectRef, Request
from llmguard.core.decision import Refuse
from llmguard.errors import BadCall
from llmguard.providers import anthropic_messages as module
from llmguard.providers.anthropic_messages import AnthropicMessages
from tests.support.upstream import upstream

DIALECT = AnthropicMessages()
MESSAGES = [{"role": "user", "content": "Hello"}]


def parse(body: bytes, endpoint: str = "/v1/messages") -> Call:
    return DIALECT.parse(Request("POST", endpoint, "beta=true", {}, body), endpoint, None)


def call(**fields: Any) -> Call:
    return parse(json.dumps({"model": "claude-haiku-4-5", "max_tokens": 100, "messages": MESSAGES} | fields).encode())


def user(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def test_an_ordinary_call() -> None:
    it = call(stream=True, metadata={"user_id": "u-7"}, system="Be brief.")
    assert (it.model, it.max_tokens, it.stream, it.choices) == ("claude-haiku-4-5", 100, True, 1)
    assert (it.end_user, it.generates, it.metered) == ("u-7", True, True)
    assert (it.reads, it.server_context, it.writes_cache, it.hidden_output) == ((), False, False, False)
    assert it.prompt_bytes == len(it.body)
    assert it.extra_input_tokens == 0
    assert it.query == "beta=true"
    assert DIALECT.texts(it) == ["Be brief.", "Hello"]


def test_counting_tokens_generates_nothing() -> None:
    it = parse(json.dumps({"model": "m", "messages": MESSAGES}).encode(), "/v1/messages/count_tokens")
    assert not it.generates
    assert it.max_tokens is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 4}, "model"),
        ({"max_tokens": "100"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stream": "true"}, "stream"),
        ({"system": 1}, "system"),
        ({"messages": {}}, "messages"),
        ({"messages": ["Hello"]}, "messages"),
        ({"messages": [{"content": 1}]}, "messages.content"),
        ({"messages": [{"content": ["Hello"]}]}, "messages.content"),
        ({"messages": user({"type": "image", "source": {"type": "base64", "data": 1}})}, "source.data"),
        ({"tools": {}}, "tools"),
        ({"tools": ["bash"]}, "tools"),
        ({"tools": [{"type": 1}]}, "tools.type"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"budget_tokens": "1"}}, "thinking.budget_tokens"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadCall) as caught:
        call(**fields)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_media_count_by_kind_and_not_by_their_base64() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 40_000}}
    plain = call(messages=user({"type": "text", "text": "See"}))
    it = call(messages=user({"type": "text", "text": "See"}, image))
    assert it.extra_input_tokens == module.IMAGE_TOKENS
    assert it.prompt_bytes - plain.prompt_bytes == len(json.dumps(image)) - 40_000 + len(", ")
    nested = call(messages=user({"type": "tool_result", "tool_use_id": "t", "content": [image, image]}))
    assert nested.extra_input_tokens == 2 * module.IMAGE_TOKENS
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 10_000}}
    assert call(messages=user(pdf)).extra_input_tokens == 3 * module.PAGE_TOKENS


@pytest.mark.parametrize(
    ("block", "tokens", "unseen"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}, module.IMAGE_TOKENS, False),
        ({"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}, 0, True),
        ({"type": "document", "source": {"type": "file", "file_id": "file_1"}}, 0, True),
        ({"type": "document", "source": {"type": "text", "data": "plain"}}, 0, False),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}}, 0, False),
    ],
)
def test_where_a_document_lies(block: dict[str, Any], tokens: int, unseen: bool) -> None:
    it = call(messages=user(block))
    assert (it.extra_input_tokens, it.server_context) == (tokens, unseen)


@pytest.mark.parametrize(
    ("tool", "tokens", "unseen"),
    [
        ({"name": "f", "input_schema": {}}, module.TOOL_TOKENS, False),
        ({"type": "custom", "name": "f"}, module.TOOL_TOKENS, False),
        ({"type": "bash_20250124", "name": "bash"}, module.TOOL_TOKENS + module.BUILT_IN_TOOL_TOKENS, False),
        ({"type": "web_search_20250305"}, module.TOOL_TOKENS + module.BUILT_IN_TOOL_TOKENS, True),
        ({"type": "code_execution_20250825"}, module.TOOL_TOKENS + module.BUILT_IN_TOOL_TOKENS, True),
        ({"type": "made_up_next_year"}, module.TOOL_TOKENS + module.BUILT_IN_TOOL_TOKENS, True),
    ],
)
def test_tools_bring_tokens_and_some_bring_unseen_input(tool: dict[str, Any], tokens: int, unseen: bool) -> None:
    it = call(tools=[tool])
    assert (it.extra_input_tokens, it.server_context) == (tokens, unseen)


def test_an_mcp_server_brings_unseen_input() -> None:
    assert call(mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}]).server_context
    assert not call(mcp_servers=[]).server_context


@pytest.mark.parametrize(
    ("model", "thinking", "hidden"),
    [
        ("claude-3-5-haiku-latest", None, False),
        ("claude-opus-4-8", None, False),
        ("claude-opus-4-8", {"type": "adaptive"}, True),
        ("claude-sonnet-4-5", {"type": "enabled", "budget_tokens": 2000}, True),
        ("claude-sonnet-5", None, True),
        ("claude-sonnet-5", {"type": "disabled"}, False),
        ("smart", None, True),
    ],
)
def test_thinking_is_output_that_a_stream_does_not_show(model: str, thinking: Any, hidden: bool) -> None:
    assert call(model=model, thinking=thinking).hidden_output is hidden


def test_a_prompt_that_is_written_to_the_cache() -> None:
    block = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert call(messages=user(block)).writes_cache
    escaped = json.dumps({"model": "m", "messages": user(block)}).replace("cache_control", "cache\\u005fcontrol")
    assert parse(escaped.encode()).writes_cache
    assert call(system=[block]).writes_cache
    assert call(tools=[{"name": "f", "cache_control": {"type": "ephemeral"}}]).writes_cache
    assert call(messages=user({"type": "tool_result", "content": [block]})).writes_cache
    assert call(cache_control={"type": "ephemeral"}).writes_cache
    assert not call(messages=user({"type": "text", "text": '"cache_control"'})).writes_cache


def test_objects_that_a_body_names_wherever_it_names_them() -> None:
    document = {"type": "document", "source": {"type": "file", "file_id": "file_doc"}}
    result = {"type": "tool_result", "content": [{"type": "image", "source": {"type": "file", "file_id": "file_in"}}]}
    skills = [{"type": "custom", "skill_id": "skill_1"}, {"type": "anthropic", "skill_id": "pdf"}]
    it = call(
        messages=[*user(document, {"type": "container_upload", "file_id": "file_up"}), *user(result)],
        container={"id": "cont_1", "skills": skills},
    )
    assert set(it.reads) == {
        ObjectRef("file", "file_doc"),
        ObjectRef("file", "file_up"),
        ObjectRef("file", "file_in"),
        ObjectRef("container", "cont_1"),
        ObjectRef("skill", "skill_1"),
    }
    assert call(container="cont_2").reads == (ObjectRef("container", "cont_2"),)


def test_a_name_spelled_with_escapes_is_found_and_a_tools_own_data_is_not_taken_for_one() -> None:
    hidden = b'{"model":"m","messages":[{"content":[{"type":"x","source":{"f\\u0069le_id":"file_1"}}]}]}'
    assert parse(hidden).reads == (ObjectRef("file", "file_1"),)
    use = {"type": "tool_use", "id": "t", "name": "read", "input": {"file_id": "mine", "container": "c"}}
    assert call(messages=[{"role": "assistant", "content": [use]}]).reads == ()


def test_texts_leave_out_what_is_no_text_to_the_model() -> None:
    it = call(
        system=[{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        messages=user(
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "R"}]},
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
        ),
    )
    tool = '{"name":"f","description":"d","input_schema":{"type":"object"}}'
    assert DIALECT.texts(it) == [tool, "S", "f", '{"a":1}', "R", "T", "D"]


def test_edits_change_two_members_and_no_other_byte() -> None:
    body = b'{ "model" : "a",\n "messages":[ {"role":"user","content":"h\\u00e9"} ], "max_tokens" :9 }'
    it = parse(body)
    assert DIALECT.rewrite(it, Edits()) == body
    edited = DIALECT.rewrite(it, Edits(model="b", max_tokens=5))
    assert json.loads(edited) == {**json.loads(body), "model": "b", "max_tokens": 5}
    assert b'[ {"role":"user","content":"h\\u00e9"} ]' in edited
    without = parse(b'{"model":"a","messages":[]}')
    assert json.loads(DIALECT.rewrite(without, Edits(max_tokens=5)))["max_tokens"] == 5


@pytest.mark.parametrize(
    ("budget", "limit", "after"), [(8000, 4000, 3999), (2000, 4000, 2000), (2000, 1024, 2000), (None, 4000, None)]
)
def test_a_thinking_budget_stays_below_a_lowered_limit(budget: int | None, limit: int, after: int | None) -> None:
    """The API answers 400 when `budget_tokens` is not below `max_tokens`, and when it is under 1,024."""
    it = call(max_tokens=10_000, thinking={"type": "enabled", "budget_tokens": budget})
    assert json.loads(DIALECT.rewrite(it, Edits(max_tokens=limit)))["thinking"]["budget_tokens"] == after


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "stream",
    "metadata",
    "thinking",
    "container",
    "mcp_servers",
]
INNER = ["role", "content", "type", "source", "data", "input", "file_id", "user_id", "budget_tokens", "text", "id"]
SHAPED = st.recursive(
    JSON | st.sampled_from(["image", "document", "base64", "file", "text", "tool_result", "tool_use", "content"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), SHAPED | st.just("claude-haiku-4-5"), max_size=7) | JSON)
def test_any_document_is_understood_or_refused_and_what_is_understood_can_be_used(document: Any) -> None:
    body = json.dumps(document).encode()
    try:
        it = parse(body)
    except BadCall:
        return
    assert it.prompt_bytes >= 0
    assert all(isinstance(text, str) for text in DIALECT.texts(it))
    assert DIALECT.overhead_tokens(it) > 0
    edited = json.loads(DIALECT.rewrite(it, Edits(model="other", max_tokens=5)))
    assert (edited["model"], edited["max_tokens"]) == ("other", 5)


@pytest.mark.parametrize(
    ("code", "status", "error", "kind"),
    [
        ("budget_exceeded", 429, anthropic.RateLimitError, "rate_limit_error"),
        ("runaway_tripped", 403, anthropic.PermissionDeniedError, "permission_error"),
        ("invalid_type", 400, anthropic.BadRequestError, "invalid_request_error"),
        ("object_not_found", 404, anthropic.NotFoundError, "not_found_error"),
        ("quota_unavailable", 503, anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_a_refusal_is_the_exception_that_the_sdk_makes_of_such_an_error(
    code: str, status: int, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with upstream() as server, anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as client:
        server.reply(status=status, body=DIALECT.refusal(Refuse(code, status, "No."), "rid-1"))
        with pytest.raises(error) as caught:
            client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    exc = caught.value
    assert (exc.status_code, exc.type, exc.error_code, exc.api_message) == (status, kind, code, "No.")
    assert isinstance(exc.body, dict)
    assert exc.body["error"]["llmguard"]["request_id"] == "rid-1"
    assert exc.body["request_id"] == "rid-1"


def test_a_call_may_not_let_the_provider_choose_another_model() -> None:
    with pytest.raises(BadCall, match="'fallbacks' is not accepted"):
        call(fallbacks=[{"model": "claude-opus-4-8"}])
    assert call(fallbacks=[]).model
