"""What the Anthropic reader sees in replies, and how it ends a stream, as the official SDK sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from llmguard.core.call import ObjectRef
from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.providers.anthropic_reply import MessagesReader, usage_of
from llmguard.providers.stream import MAX_HELD
from tests.support.upstream import upstream

REFUSE = Refuse(
    "budget_exceeded", 429, "The budget search-hourly is spent.", unit="usd", limit=5 * 10**9, spent=5 * 10**9
)
Sdk = Callable[[bytes], tuple[list[str], str, anthropic.APIStatusError]]


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def delta(index: int, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta=fields)


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 90,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
        },
    },
)
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "rm", "input": {}}
EVENTS = [
    START,
    event("ping"),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    delta(0, type="text_delta", text="Once upon"),
    delta(0, type="text_delta", text=" a time\n\nthere was é"),
    event("content_block_stop", index=0),
    event("content_block_start", index=1, content_block=TOOL),
    delta(1, type="input_json_delta", partial_json='{"path": "/tmp'),
    delta(1, type="input_json_delta", partial_json='/scratch"}'),
    event("content_block_stop", index=1),
    event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 42}),
    event("message_stop"),
]


def read(body: bytes) -> MessagesReader:
    reader = MessagesReader()
    assert reader.feed(body) + reader.flush() == body
    return reader


def whole(**fields: Any) -> MessagesReader:
    reader = MessagesReader()
    reader.whole(200, "application/json", json.dumps({"type": "message", "model": "m"} | fields).encode())
    return reader


def test_a_stream_reports_usage_at_its_end_and_holds_that_end_back() -> None:
    reader = MessagesReader()
    assert reader.feed(b"".join(EVENTS[:-2])) == b"".join(EVENTS[:-2])
    assert (reader.usage, reader.finished) == (None, False)
    assert reader.feed(EVENTS[-2] + EVENTS[-1]) == EVENTS[-2]
    assert reader.usage == Usage(100, 42, cached_input_tokens=90, cache_write_tokens=0)
    assert (reader.model, reader.finish_reason) == ("claude-haiku-4-5", "tool_use")
    assert (reader.finished, reader.failed) == (True, False)
    assert reader.flush() == EVENTS[-1]


def test_an_event_of_its_own_goes_on_as_the_very_object_that_came() -> None:
    reader = MessagesReader()
    reader.feed(START)
    assert reader.feed(EVENTS[3]) is EVENTS[3]


def test_the_delta_wins_over_the_start_and_leaves_the_rest_of_it_alone() -> None:
    late = {"input_tokens": 12, "cache_read_input_tokens": None, "output_tokens": 7}
    reader = read(START + event("message_delta", delta={"stop_reason": "end_turn"}, usage=late))
    assert reader.usage == Usage(102, 7, cached_input_tokens=90, cache_write_tokens=0)


def test_usage_in_our_convention() -> None:
    reported = {
        "input_tokens": 5,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
        "iterations": [{"input_tokens": 1, "output_tokens": 1}],
    }
    assert usage_of(reported) == Usage(325, 50, 20, 300, 40, 200)
    assert usage_of({"input_tokens": True, "output_tokens": -3, "cache_creation": 1}) == Usage(0, 0)


def test_generated_tokens_are_estimated_while_they_pass() -> None:
    reader = MessagesReader()
    for chunk in EVENTS:
        reader.feed(chunk)
    text = 'Once upon a time\n\nthere was {"path": "/tmp/scratch"}'
    assert len(text) // 4 <= reader.generated <= len(text)


def test_an_error_event_ends_the_stream() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    reader = MessagesReader()
    assert reader.feed(START + error) == START
    assert (reader.finished, reader.failed, reader.usage) == (True, True, None)
    assert reader.flush() == error


def test_replies_without_usage_leave_it_unknown() -> None:
    for body in (b"", b"{", b"[]", b"\xff", b'{"input_tokens":3}', b'{"usage":1}', b"[" * 9_999):
        reader = MessagesReader()
        reader.whole(200, "application/json", body)
        assert reader.usage is None
    reader = MessagesReader()
    reader.whole(529, "application/json", b'{"usage":{"input_tokens":3,"output_tokens":3}}')
    assert reader.usage is None


def test_a_container_and_the_files_that_code_left_in_it_are_created() -> None:
    output = {"type": "bash_code_execution_output", "file_id": "file_9"}
    result = {"type": "bash_code_execution_result", "content": [output], "stdout": "", "stderr": "", "return_code": 0}
    block = {"type": "bash_code_execution_tool_result", "tool_use_id": "s", "content": result}
    usage = {"input_tokens": 1, "output_tokens": 1}
    made = [ObjectRef("container", "cont_1"), ObjectRef("file", "file_9")]
    assert whole(container={"id": "cont_1"}, content=[block], usage=usage).created == made
    start = event("message_start", message={"model": "m", "container": {"id": "cont_1"}, "usage": usage})
    blocks = event("content_block_start", index=0, content_block=block)
    last = event("message_delta", delta={"container": {"id": "cont_1"}}, usage=usage)
    assert read(start + blocks + last).created == made


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": '{"file_id": "file_victim"}'},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"file_id": "file_victim"}},
        {"type": "mcp_tool_result", "content": {"content": [{"file_id": "file_victim"}]}},
        {"type": "web_fetch_tool_result", "content": {"content": [{"file_id": "file_victim"}]}},
    ],
)
def test_nobody_becomes_the_owner_of_a_file_that_the_model_was_made_to_name(block: dict[str, Any]) -> None:
    assert whole(content=[block], usage={"input_tokens": 1, "output_tokens": 1}).created == []
    assert read(START + event("content_block_start", index=0, content_block=block)).created == []


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    """Streams a body to the SDK: event types and text that `messages.stream` gives, and the exception that ends it."""
    with upstream() as server, anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as client:

        def run(body: bytes) -> tuple[list[str], str, anthropic.APIStatusError]:
            server.reply(sse=body)
            kinds, text = [], ""
            try:
                with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as it:
                    for one in it:
                        kinds.append(one.type)
                        text += one.text if one.type == "text" else ""
            except anthropic.APIStatusError as exc:
                return kinds, text, exc
            raise AssertionError("the SDK took the cut stream for a whole one")

        yield run


@pytest.mark.parametrize("events", range(len(EVENTS) - 1))
def test_a_cut_stream_raises_the_refusal_in_the_sdk(sdk: Sdk, events: int) -> None:
    """Whatever was whole before the cut arrives; the exception says what happened, and no block is ended by us."""
    reader = MessagesReader()
    sent = b"".join(EVENTS[:events])
    torn = EVENTS[events][: len(EVENTS[events]) // 2]
    body = reader.feed(sent + torn) + reader.cut(REFUSE, "rid-1")
    kinds, text, exc = sdk(body)
    assert (exc.type, exc.error_code, exc.api_message) == ("rate_limit_error", "budget_exceeded", REFUSE.message)
    assert isinstance(exc.body, dict)
    assert exc.body["error"]["llmguard"] | {"rule": None} == exc.body["error"]["llmguard"]
    assert (exc.body["error"]["llmguard"]["limit"], exc.body["request_id"]) == ("5", "rid-1")
    assert kinds.count("content_block_stop") == sum(b"content_block_stop" in one for one in EVENTS[:events])
    assert text == ("Once upon a time\n\nthere was é" if events > 4 else "Once upon" if events > 3 else "")
    assert reader.usage is None or events == len(EVENTS) - 1


def test_a_stream_cut_at_its_very_end_just_ends() -> None:
    reader = MessagesReader()
    body = b"".join(EVENTS)
    assert reader.feed(body) + reader.cut(REFUSE, "rid-1") == body


def test_an_event_too_large_to_hold_is_ended_before_the_error(sdk: Sdk) -> None:
    """A search result of several hundred kilobytes is on its way when the budget ends."""
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"encrypted_content": "é" * MAX_HELD}]}
    large = event("content_block_start", index=0, content_block=result)
    reader = MessagesReader()
    body = reader.feed(START) + reader.feed(large[: MAX_HELD + 999]) + reader.feed(large[MAX_HELD + 999 : -9])
    assert len(body) > MAX_HELD
    kinds, _, exc = sdk(body + reader.cut(REFUSE, "rid-1"))
    assert kinds == ["message_start"]
    assert exc.error_code == "budget_exceeded"
