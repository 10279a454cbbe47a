"""The Responses API: what a request means, what is changed in it, what a reply cost."""

import json
from typing import Any

import pytest

from llmguard.core.call import Call, Edits, ObjectRef
from llmguard.core.usage import Usage
from llmguard.errors import BadCall
from llmguard.providers.openai_content import GROK_TOKENS, IMAGE_TOKENS, TOOL_TOKENS
from llmguard.providers.openai_responses import OpenAIResponses
from llmguard.providers.stream import MAX_HELD
from tests.support.openai_stream import MESSAGE, RESPONSE, RESPONSE_EVENTS, RESPONSE_USAGE, TEXT, event
from tests.support.openai_traffic import request

DIALECT = OpenAIResponses()
PATH = "/v1/responses"
EXPECTED = Usage(20, 9, 5, None, 6)
PNG = "data:image/png;base64," + "QUJD" * 10_000


def parse(**fields: Any) -> Call:
    body = json.dumps({"model": "gpt-4o", **fields}).encode()
    return DIALECT.parse(request(body, PATH), PATH, None)


def item(**fields: Any) -> Call:
    return parse(input=[fields])


def test_an_ordinary_call() -> None:
    call = parse(input="Hi", max_output_tokens=99, safety_identifier="u", stream=True)
    assert (call.dialect, call.family, call.model) == ("openai_responses", "openai", "gpt-4o")
    assert (call.stream, call.max_tokens, call.choices, call.end_user) == (True, 99, 1, "u")
    assert (call.prompt_bytes, call.extra_input_tokens, call.server_context) == (len(call.body), 0, False)
    assert (call.reads, call.creates, call.wants_usage_chunk) == ((), "response", True)


@pytest.mark.parametrize(("store", "creates"), [(None, "response"), (True, "response"), (False, None)])
def test_responses_are_stored_unless_the_caller_says_no(store: bool | None, creates: str | None) -> None:
    assert parse(input="Hi", store=store).creates == creates


def test_background_is_refused() -> None:
    assert parse(input="Hi", background=False)
    with pytest.raises(BadCall, match="'background' must be false") as caught:
        parse(input="Hi", background=True)
    assert (caught.value.status, caught.value.param) == (400, "background")


@pytest.mark.parametrize(
    ("fields", "refs"),
    [
        ({"previous_response_id": "resp_1"}, [("response", "resp_1")]),
        ({"conversation": "conv_1"}, [("conversation", "conv_1")]),
        ({"conversation": {"id": "conv_2"}}, [("conversation", "conv_2")]),
        ({"prompt": {"id": "pmpt_1", "variables": {"name": "x"}}}, [("prompt", "pmpt_1")]),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, [("item", "msg_1")]),
        ({"input": [{"id": "msg_2"}]}, [("item", "msg_2")]),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, [("item", "rs_1")]),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, [("item", "ig_1")]),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]}]}, [("vector_store", "vs_1")]),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, [("container", "cntr_1")]),
        ({"tools": [{"type": "code_interpreter", "container": {"file_ids": ["file-1"]}}]}, [("file", "file-1")]),
        ({"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "file-2"}}]}, [("file", "file-2")]),
        ({"tools": [{"type": "shell", "environment": {"container_id": "cntr_2"}}]}, [("container", "cntr_2")]),
        (
            {
                "input": [
                    {"type": "tool_search_output", "tools": [{"type": "file_search", "vector_store_ids": ["vs_3"]}]}
                ]
            },
            [("vector_store", "vs_3")],
        ),
        ({"input": [{"type": "something_new", "file_id": "file-3"}]}, [("file", "file-3")]),
    ],
)
def test_objects_at_the_provider_are_read_and_add_unseen_input(fields: dict, refs: list) -> None:
    call = parse(**fields)
    assert call.server_context
    for kind, name in refs:
        assert ObjectRef(kind, name) in call.reads


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAA", "summary": []}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text", "text": "x"}]}]},
        {"input": [{"type": "message", "id": "msg_1", "role": "assistant", "content": [TEXT]}]},
        {"input": [{"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "42"}]},
        {"input": [{"type": "web_search_call", "id": "ws_1", "action": {"query": "x"}}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {}}}}]},
        {"tools": [{"type": "namespace", "tools": [{"type": "custom", "name": "f"}]}]},
        {"tools": [{"name": "f"}]},
        {"previous_response_id": None, "conversation": None, "prompt": None},
    ],
)
def test_what_is_sent_back_in_full_is_no_read(fields: dict) -> None:
    call = parse(**fields)
    assert (call.reads, call.server_context) == ((), False)


def test_a_container_of_an_earlier_call_is_read() -> None:
    call = item(type="code_interpreter_call", id="ci_1", code="1", container_id="cntr_1")
    assert call.reads == (ObjectRef("container", "cntr_1"),)


def test_words_that_providers_add_are_counted() -> None:
    assert parse(input="Hi", tools=[{"type": "function"}]).extra_input_tokens == TOOL_TOKENS
    assert parse(input="Hi", tools=[]).extra_input_tokens == 0
    assert parse(input="Hi", model="grok-3-mini").extra_input_tokens == GROK_TOKENS
    assert parse(input="Hi", reasoning={"mode": "pro"}).server_context


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "mcp", "tool_search", "brand_new"])
def test_tools_at_the_provider_add_unseen_input(kind: str) -> None:
    assert parse(input="Hi", tools=[{"type": kind}]).server_context


def test_images_count_as_their_worst_case_and_not_as_their_bytes() -> None:
    image = {"type": "input_image", "image_url": PNG}
    call = item(role="user", content=[{"type": "input_text", "text": "?"}, image])
    assert (call.extra_input_tokens, call.prompt_bytes) == (IMAGE_TOKENS, len(call.body) - len(PNG))
    call = item(type="function_call_output", call_id="c", output=[image, image])
    assert call.extra_input_tokens == 2 * IMAGE_TOKENS
    call = item(type="computer_call_output", call_id="c", output={"type": "computer_screenshot", "image_url": PNG})
    assert call.extra_input_tokens == IMAGE_TOKENS
    call = item(type="image_generation_call", id="ig_1", result="QUJD" * 9_999)
    assert (call.extra_input_tokens, call.prompt_bytes < 200, call.reads) == (IMAGE_TOKENS, True, ())
    call = item(role="user", content=[{"type": "input_image", "file_id": "file-1"}])
    assert (call.extra_input_tokens, call.reads) == (IMAGE_TOKENS, (ObjectRef("file", "file-1"),))
    call = parse(prompt={"id": "pmpt_1", "variables": {"picture": image, "name": "x"}})
    assert call.extra_input_tokens == IMAGE_TOKENS


@pytest.mark.parametrize(
    ("part", "reads"),
    [
        ({"type": "input_file", "file_id": "file-1"}, (ObjectRef("file", "file-1"),)),
        ({"type": "input_file", "file_url": "https://x/y.pdf"}, ()),
        ({"type": "input_file", "filename": "y.pdf", "file_data": "data:application/pdf;base64,QUJD"}, ()),
    ],
)
def test_files_count_as_the_context_window(part: dict, reads: tuple) -> None:
    call = item(role="user", content=[part])
    assert (call.server_context, call.reads) == (True, reads)


@pytest.mark.parametrize(
    ("model", "reasoning", "hidden"),
    [
        ("gpt-4o", None, False),
        ("gpt-5.6-sol", None, True),
        ("gpt-5.2", {"effort": "none"}, False),
        ("gpt-5.2", {"summary": "auto"}, True),
        ("grok-4.3", None, True),
        ("mistral-small", {"effort": "low"}, True),
    ],
)
def test_hidden_reasoning_is_known(model: str, reasoning: Any, hidden: bool) -> None:
    assert parse(model=model, input="Hi", reasoning=reasoning).hidden_output is hidden


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", None, "model"),
        ("stream", 1, "stream"),
        ("store", "no", "store"),
        ("background", "yes", "background"),
        ("max_output_tokens", 0, "max_output_tokens"),
        ("max_output_tokens", "9", "max_output_tokens"),
        ("instructions", [], "instructions"),
        ("input", {}, "input"),
        ("input", ["Hi"], "input"),
        ("input", [{"type": 7}], "input.type"),
        ("input", [{"content": 7}], "input.content"),
        ("input", [{"content": [7]}], "input.content"),
        ("input", [{"type": "item_reference", "id": 7}], "input.id"),
        ("input", [{"type": "code_interpreter_call", "container_id": []}], "input.container_id"),
        ("input", [{"type": "function_call_output", "output": [{"type": "input_file", "file_id": 7}]}], "input.output"),
        ("input", [{"type": "additional_tools", "tools": {}}], "input.tools"),
        ("tools", {}, "tools"),
        ("tools", ["web_search"], "tools"),
        ("tools", [{"type": "namespace", "tools": 1}], "tools"),
        ("previous_response_id", 7, "previous_response_id"),
        ("conversation", 7, "conversation"),
        ("conversation", {"id": 7}, "conversation.id"),
        ("prompt", "pmpt_1", "prompt"),
        ("prompt", {"id": 7}, "prompt.id"),
        ("prompt", {"id": "p", "variables": [1]}, "prompt.variables"),
        ("prompt", {"id": "p", "variables": {"x": 1}}, "prompt.variables"),
        ("reasoning", "high", "reasoning"),
    ],
)
def test_what_counts_must_be_understood(field: str, value: Any, param: str) -> None:
    with pytest.raises(BadCall) as caught:
        parse(**{field: value})
    assert (caught.value.status, caught.value.param) == (400, param)


def test_the_texts_of_a_prompt() -> None:
    tools = [{"type": "function", "name": "f"}]
    call = parse(
        instructions="Be brief.",
        tools=tools,
        input=[
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": [{"type": "input_text", "text": "there"}, {"type": "input_image"}]},
            {"type": "function_call", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "output": "42"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}], "encrypted_content": "gA"},
        ],
    )
    assert DIALECT.texts(call) == [
        "Be brief.",
        '[{"type":"function","name":"f"}]',
        "Hi",
        "there",
        "f",
        "{}",
        "42",
        "so",
        "gA",
    ]
    assert DIALECT.overhead_tokens(call) == 3 + 4 * 6
    call = parse(input="Hi", prompt={"id": "p", "variables": {"a": "x", "b": {"type": "input_text", "text": "y"}}})
    assert DIALECT.texts(call) == ["Hi", "x", "y"]
    assert DIALECT.overhead_tokens(call) == 3 + 4 * 2


@pytest.mark.parametrize(
    ("edits", "body", "result"),
    [
        (Edits(ask_usage=True), b'{"model":"m", "stream":true}', b'{"model":"m", "stream":true}'),
        (Edits(max_tokens=5), b'{"model":"m", "x":1.0}', b'{"max_output_tokens":5,"model":"m", "x":1.0}'),
        (Edits(max_tokens=5), b'{"model":"m","max_output_tokens":9}', b'{"model":"m","max_output_tokens":5}'),
        (Edits(model="gpt-5"), b'{"model": "m","input":[ 1.0 ]}', b'{"model":"gpt-5","input":[ 1.0 ]}'),
    ],
)
def test_edits_change_what_they_name(edits: Edits, body: bytes, result: bytes) -> None:
    call = parse(input="Hi")
    call.body, call.doc = body, json.loads(body)
    assert DIALECT.rewrite(call, edits) == result


def reader(**fields: Any):
    return DIALECT.reader(parse(input="Hi", stream=True, **fields), asked_usage=False)


STORED = [ObjectRef("response", "resp_1"), ObjectRef("item", "msg_1")]


def test_a_stream_is_read_as_it_passes() -> None:
    found = reader()
    for one in RESPONSE_EVENTS[:-1]:
        assert found.feed(one) is one
    assert (found.usage, found.finished, found.generated) == (None, False, 2)
    assert found.feed(RESPONSE_EVENTS[-1]) == b""
    assert (found.usage, found.model, found.finish_reason) == (EXPECTED, "gpt-5-x", "completed")
    assert (found.finished, found.failed, found.created) == (True, False, STORED)
    assert found.flush() == RESPONSE_EVENTS[-1]


def test_a_response_that_is_not_stored_is_no_object() -> None:
    found = reader(store=False)
    found.feed(b"".join(RESPONSE_EVENTS))
    assert (found.created, found.usage) == ([], EXPECTED)


def last(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, "sequence_number": 9, "response": {**RESPONSE, **fields}}, kind)


def test_an_incomplete_response_says_why() -> None:
    found = reader()
    details = {"reason": "max_output_tokens"}
    found.feed(last("response.incomplete", status="incomplete", incomplete_details=details, usage=RESPONSE_USAGE))
    assert (found.finished, found.failed, found.finish_reason) == (True, False, "max_output_tokens")
    assert found.usage == EXPECTED


def test_a_failed_response_may_have_cost_something() -> None:
    found = reader()
    found.feed(last("response.failed", status="failed", usage=RESPONSE_USAGE))
    assert (found.finished, found.failed, found.finish_reason, found.usage) == (True, True, "failed", EXPECTED)


def test_an_error_event_ends_the_stream() -> None:
    found = reader()
    error = event({"type": "error", "code": "rate_limit_exceeded", "message": "slow", "sequence_number": 2}, "error")
    assert found.feed(RESPONSE_EVENTS[0] + error) == RESPONSE_EVENTS[0]
    assert (found.finished, found.failed, found.usage) == (True, True, None)


def test_an_end_marker_after_the_last_event_is_held_with_it() -> None:
    found = reader()
    found.feed(RESPONSE_EVENTS[-1])
    assert found.feed(b"data: [DONE]\n\n") == b""
    assert found.flush() == RESPONSE_EVENTS[-1] + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("kind", "delta", "tokens"),
    [
        ("response.output_text.delta", "Hello there, world", 4),
        ("response.reasoning_summary_text.delta", "Let me think.", 3),
        ("response.function_call_arguments.delta", '{"city":"Paris"}', 8),
        ("response.audio.delta", "QUJD" * 1_000, 0),
        ("response.output_text.delta", {"odd": 1}, 0),
        ("response.output_text.done", None, 0),
    ],
)
def test_generated_tokens_are_estimated(kind: str, delta: Any, tokens: int) -> None:
    found = reader()
    found.feed(event({"type": kind, "delta": delta}, kind))
    assert found.generated == tokens


def test_a_last_event_too_large_to_hold_is_read_and_its_end_held() -> None:
    body = last("response.completed", instructions="x" * 400_000, usage=RESPONSE_USAGE, user=None)
    found = reader()
    out = b"".join(found.feed(body[at : at + 10_000]) for at in range(0, len(body), 10_000))
    assert (found.usage, found.finished, found.finish_reason) == (EXPECTED, True, "completed")
    assert found.created == STORED[:1]
    held = found.flush()
    assert (out + held, len(held)) == (body, MAX_HELD)


def test_a_whole_reply() -> None:
    output = [
        {**MESSAGE, "content": [TEXT]},
        {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"},
    ]
    body = {**RESPONSE, "status": "completed", "output": output, "usage": RESPONSE_USAGE}
    found = reader()
    found.whole(200, "application/json", json.dumps(body).encode())
    assert (found.usage, found.model, found.finish_reason) == (EXPECTED, "gpt-5-x", "completed")
    assert found.created == [*STORED, ObjectRef("item", "ci_1"), ObjectRef("container", "cntr_1")]


def test_a_whole_reply_without_usage_is_estimated() -> None:
    body = {**RESPONSE, "output": [{**MESSAGE, "content": [{**TEXT, "text": "a" * 40}, 7]}, 5], "usage": None}
    found = reader()
    found.whole(200, "application/json", json.dumps(body).encode())
    assert (found.usage, found.generated) == (None, 10)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"output":{}}', b'{"usage":[1]}', b"[" * 9_999])
def test_a_reply_nobody_understands_leaves_usage_open(body: bytes) -> None:
    found = reader()
    found.whole(200, "application/json", body)
    assert found.usage is None
    found = reader()
    found.feed(b"data: " + body + b"\n\n")
    assert found.usage is None


def test_usage_is_read_where_the_output_is_odd() -> None:
    found = reader()
    found.whole(200, "application/json", json.dumps({"output": {"0": 1}, "usage": RESPONSE_USAGE}).encode())
    assert found.usage == EXPECTED
    found = reader()
    found.feed(event({"type": "response.completed", "item": 7, "response": {"usage": RESPONSE_USAGE, "output": 1}}))
    assert (found.usage, found.finished) == (EXPECTED, True)
