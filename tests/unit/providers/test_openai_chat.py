"""Chat and text completions: what a request means, what is changed in it, what a reply cost."""

import json
import random
from typing import Any

import pytest

from llmguard.core.call import Call, Edits, ObjectRef
from llmguard.core.usage import Usage
from llmguard.errors import BadCall
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_content import (
    GROK_TOKENS,
    IMAGE_TOKENS,
    LOW_DETAIL_TOKENS,
    MINI_IMAGE_TOKENS,
    TOOL_TOKENS,
)
from tests.support.openai_stream import CHAT_EVENTS, DONE, USAGE, USAGE_CHUNK, chunk, event, piece
from tests.support.openai_traffic import request

DIALECT = OpenAIChat()
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hi"}]
PARTS = ("cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens", "text_tokens")


def parse(endpoint: str = CHAT, path_model: str | None = None, **fields: Any) -> Call:
    doc = {"model": "gpt-4o", **({"messages": HELLO} if endpoint == CHAT else {}), **fields}
    return DIALECT.parse(request(json.dumps(doc).encode(), endpoint), endpoint, path_model)


def parts(*content: Any, **fields: Any) -> Call:
    return parse(messages=[{"role": "user", "content": list(content)}], **fields)


def refused(**fields: Any) -> BadCall:
    with pytest.raises(BadCall) as caught:
        parse(**fields)
    return caught.value


def test_an_ordinary_call() -> None:
    call = parse(max_tokens=9, user="u-1")
    assert (call.dialect, call.family, call.model, call.endpoint) == ("openai_chat", "openai", "gpt-4o", CHAT)
    assert (call.stream, call.max_tokens, call.choices, call.end_user) == (False, 9, 1, "u-1")
    assert (call.prompt_bytes, call.extra_input_tokens, call.server_context) == (len(call.body), 0, False)
    assert (call.reads, call.creates, call.generates, call.wants_usage_chunk) == ((), None, True, True)
    assert (call.hidden_output, call.audio, call.writes_cache) == (False, False, True)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 8, "max_completion_tokens": 7}, 8),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 100.0}, 100),
    ],
)
def test_the_larger_limit_counts(fields: dict, limit: int | None) -> None:
    assert parse(**fields).max_tokens == limit


@pytest.mark.parametrize(
    ("endpoint", "fields", "choices"),
    [
        (CHAT, {"n": 3}, 3),
        (CHAT, {"n": None}, 1),
        (TEXT, {"prompt": "a", "n": 2, "best_of": 5}, 5),
        (TEXT, {"prompt": ["a", "b"], "n": 2}, 4),
        (TEXT, {"prompt": [1, 2, 3]}, 1),
        (TEXT, {"prompt": [[1, 2], [3]]}, 2),
        (TEXT, {"prompt": []}, 1),
        (TEXT, {}, 1),
    ],
)
def test_every_answer_is_counted(endpoint: str, fields: dict, choices: int) -> None:
    assert parse(endpoint, **fields).choices == choices


@pytest.mark.parametrize(
    ("fields", "wants"),
    [
        ({}, True),
        ({"stream": True}, False),
        ({"stream": True, "stream_options": None}, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
    ],
)
def test_usage_on_streams_is_wanted_or_not(fields: dict, wants: bool) -> None:
    assert parse(**fields).wants_usage_chunk is wants


def test_who_it_is_for() -> None:
    assert parse(user="a", safety_identifier="b").end_user == "b"
    assert parse(user="").end_user is None


def test_a_model_in_the_path_counts() -> None:
    call = DIALECT.parse(request(b'{"messages":[]}', CHAT), CHAT, "my-deployment")
    assert call.model == "my-deployment"


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", 1, "model"),
        ("model", None, "model"),
        ("model", "m" * 257, "model"),
        ("stream", "yes", "stream"),
        ("stream_options", [], "stream_options"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
        ("max_tokens", "9", "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("max_tokens", -2, "max_tokens"),
        ("max_tokens", 2**31, "max_tokens"),
        ("max_completion_tokens", 1.5, "max_completion_tokens"),
        ("n", 0, "n"),
        ("n", 10**9, "n"),
        ("messages", {}, "messages"),
        ("messages", ["Hi"], "messages"),
        ("messages", [{"content": 5}], "messages.content"),
        ("messages", [{"content": [5]}], "messages.content"),
        ("messages", [{"content": [{"type": "image_url", "image_url": {"url": 1}}]}], "messages.content"),
        ("messages", [{"audio": "x"}], "messages.audio"),
        ("tools", [1], "tools"),
        ("tools", "all", "tools"),
        ("user", 7, "user"),
        ("store", "yes", "store"),
        ("models", ["a", "b"], "models"),
        ("preset", "p", "preset"),
    ],
)
def test_what_counts_must_be_understood(field: str, value: Any, param: str) -> None:
    error = refused(**{field: value})
    assert (error.status, error.param) == (400, param)
    assert param in error.message


def test_images_count_as_their_worst_case_and_not_as_their_bytes() -> None:
    url = "data:image/png;base64," + "QUJD" * 500_000
    call = parts({"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}})
    assert call.extra_input_tokens == IMAGE_TOKENS
    assert call.prompt_bytes == len(call.body) - len(url) < 300
    assert not call.server_context
    assert parts({"type": "image_url", "image_url": url}).extra_input_tokens == IMAGE_TOKENS
    link = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    assert parts(link).extra_input_tokens == LOW_DETAIL_TOKENS
    assert parts(link, link, model="gpt-4o-mini").extra_input_tokens == 2 * 2_833
    assert parts({"type": "image_url", "image_url": url}, model="gpt-4o-mini").extra_input_tokens == MINI_IMAGE_TOKENS
    assert MINI_IMAGE_TOKENS == 48_169


@pytest.mark.parametrize("audio", [{"data": "QUJD" * 3_000, "format": "mp3"}, "QUJD" * 3_000])
def test_audio_counts_by_its_length(audio: Any) -> None:
    call = parts({"type": "input_audio", "input_audio": audio})
    assert (call.audio, call.extra_input_tokens, call.prompt_bytes < 300) == (True, 401, True)


def test_speech_output_has_its_own_price() -> None:
    assert parse(modalities=["text", "audio"]).audio
    assert not parse(modalities=["text"]).audio


@pytest.mark.parametrize(
    ("part", "reads"),
    [
        ({"type": "file", "file": {"file_id": "file-1"}}, (ObjectRef("file", "file-1"),)),
        ({"type": "file", "file_id": "file-2"}, (ObjectRef("file", "file-2"),)),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}}, ()),
        ({"type": "document_url", "document_url": "https://x/y.pdf"}, ()),
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, ()),
        ({"type": "hologram"}, ()),
        ({"type": ["text"]}, ()),
        ({}, ()),
    ],
)
def test_what_cannot_be_measured_counts_as_the_context_window(part: dict, reads: tuple) -> None:
    call = parts(part)
    assert (call.server_context, call.reads) == (True, reads)


def test_an_earlier_spoken_answer_lies_at_the_provider() -> None:
    call = parse(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}])
    assert (call.server_context, call.reads) == (True, (ObjectRef("audio", "audio_1"),))


@pytest.mark.parametrize(
    ("fields", "unseen"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom"}, {"name": "f"}]}, False),
        ({"tools": [{"type": "openrouter:web_search"}]}, True),
        ({"web_search_options": {"search_context_size": "low"}}, True),
        ({"web_search_options": {}}, True),
        ({"search_parameters": {"mode": "auto"}}, True),
        ({"plugins": [{"id": "web"}]}, True),
        ({"plugins": None}, False),
    ],
)
def test_tools_at_the_provider_add_unseen_input(fields: dict, unseen: bool) -> None:
    assert parse(**fields).server_context is unseen


@pytest.mark.parametrize(
    ("fields", "tokens", "unseen"),
    [
        ({"tools": [{"type": "function"}]}, TOOL_TOKENS, False),
        ({"functions": [{"name": "f"}]}, TOOL_TOKENS, False),
        ({"response_format": {"type": "json_object"}, "tools": []}, TOOL_TOKENS, False),
        ({"tools": []}, 0, False),
        ({"model": "x-ai/grok-4"}, GROK_TOKENS, False),
        ({"model": "groq/compound-mini"}, 0, True),
    ],
)
def test_words_that_providers_add_are_counted(fields: dict, tokens: int, unseen: bool) -> None:
    call = parse(**fields)
    assert (call.extra_input_tokens, call.server_context) == (tokens, unseen)


@pytest.mark.parametrize(
    ("model", "fields", "hidden"),
    [
        ("gpt-4o", {}, False),
        ("o3-mini", {}, True),
        ("gpt-5.2", {}, True),
        ("openai/gpt-5", {"reasoning_effort": "none"}, False),
        ("gpt-oss-120b", {}, False),
        ("gpt-oss-120b", {"reasoning_effort": "high"}, True),
        ("x-ai/grok-4", {}, True),
        ("google/gemini-2.5-pro", {}, True),
        ("deepseek-reasoner", {}, False),
        ("qwen/qwen3-32b", {"reasoning_format": "hidden"}, True),
        ("minimax/m2", {"reasoning": {"exclude": True}}, True),
        ("minimax/m2", {"reasoning": {"effort": "none"}}, False),
        ("minimax/m2", {"include_reasoning": False}, True),
        ("foo1", {}, False),
    ],
)
def test_hidden_reasoning_is_known_by_model_or_request(model: str, fields: dict, hidden: bool) -> None:
    assert parse(model=model, **fields).hidden_output is hidden


def test_a_stored_completion_is_an_object() -> None:
    call = parse(store=True)
    assert call.creates == "chat_completion"
    reader = DIALECT.reader(call, asked_usage=False)
    reader.whole(200, "application/json", b'{"id":"chatcmpl-7","choices":[]}')
    assert reader.created == [ObjectRef("chat_completion", "chatcmpl-7")]


def test_the_texts_of_a_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    call = parse(
        messages=[
            {"role": "system", "content": "Be brief.", "name": "boss"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": "x"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            {"role": "tool", "content": "42"},
        ],
        tools=tools,
    )
    assert DIALECT.texts(call) == [
        "Be brief.",
        "boss",
        "Hi",
        '[{"id":"1","function":{"name":"f"}}]',
        "42",
        json.dumps(tools, separators=(",", ":")),
    ]
    assert DIALECT.overhead_tokens(call) == 3 + 4 * 3 + 1 + 8


def test_prompts_of_tokens_are_counted_exactly() -> None:
    call = parse(TEXT, prompt=[[1, 2, 3], [4]])
    assert (DIALECT.texts(call), DIALECT.overhead_tokens(call)) == ([], 3 + 4)
    assert DIALECT.overhead_tokens(parse(TEXT, prompt=[1, 2, 3])) == 3 + 3
    assert DIALECT.texts(parse(TEXT, prompt=["a", "b"])) == ["a", "b"]


def rewritten(edits: Edits, body: bytes, endpoint: str = CHAT) -> bytes:
    call = DIALECT.parse(request(body, endpoint), endpoint, None)
    return DIALECT.rewrite(call, edits)


def test_nothing_to_change_is_the_same_object() -> None:
    call = parse()
    assert DIALECT.rewrite(call, Edits()) is call.body
    assert DIALECT.rewrite(call, Edits(ask_usage=True)) is call.body


@pytest.mark.parametrize(
    ("edits", "body", "result"),
    [
        (
            Edits(ask_usage=True),
            b'{"model": "m", "stream": true, "x": 1.0}',
            b'{"stream_options":{"include_usage":true},"model": "m", "stream": true, "x": 1.0}',
        ),
        (
            Edits(ask_usage=True),
            b'{"model":"m","stream":true,"stream_options":{"include_obfuscation": false}}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_obfuscation": false}}',
        ),
        (
            Edits(ask_usage=True),
            b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            Edits(ask_usage=True),
            b'{"model":"m","stream":true,"stream_options":null}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (Edits(max_tokens=5), b'{"model":"m","max_tokens":9}', b'{"model":"m","max_tokens":5}'),
        (Edits(max_tokens=5), b'{"model":"m","max_completion_tokens":9}', b'{"model":"m","max_completion_tokens":5}'),
        (
            Edits(max_tokens=5),
            b'{"model":"m","max_tokens":9,"max_completion_tokens":8}',
            b'{"model":"m","max_tokens":5,"max_completion_tokens":5}',
        ),
        (Edits(max_tokens=5), b'{"model":"gpt-4o"}', b'{"max_tokens":5,"model":"gpt-4o"}'),
        (Edits(max_tokens=5), b'{"model":"gpt-4o","max_tokens":null}', b'{"model":"gpt-4o","max_tokens":5}'),
        (Edits(max_tokens=5), b'{"model":"openai/o3"}', b'{"max_completion_tokens":5,"model":"openai/o3"}'),
        (Edits(max_tokens=5), b'{"model":"gpt-5.1"}', b'{"max_completion_tokens":5,"model":"gpt-5.1"}'),
        (Edits(max_tokens=5), b'{"model":"gpt-oss-20b"}', b'{"max_tokens":5,"model":"gpt-oss-20b"}'),
        (
            Edits(model="gpt-4o", max_tokens=5),
            b'{"model":"smart","messages": [ {"content":"\\u0041"} ]}',
            b'{"max_tokens":5,"model":"gpt-4o","messages":[ {"content":"\\u0041"} ]}',
        ),
    ],
)
def test_edits_change_what_they_name(edits: Edits, body: bytes, result: bytes) -> None:
    assert rewritten(edits, body) == result


def test_text_completions_know_only_max_tokens() -> None:
    assert rewritten(Edits(max_tokens=5), b'{"model":"o3"}', TEXT) == b'{"max_tokens":5,"model":"o3"}'


def test_a_model_in_the_path_is_not_added_to_the_body() -> None:
    call = DIALECT.parse(request(b'{"messages":[]}', CHAT), CHAT, "deployment")
    assert DIALECT.rewrite(call, Edits(model="other")) == b'{"messages":[]}'


def reader(asked: bool = False, **fields: Any):
    return DIALECT.reader(parse(stream=True, **fields), asked_usage=asked)


def read(*events: bytes, asked: bool = False):
    found = reader(asked)
    found.feed(b"".join(events))
    return found


EXPECTED = Usage(11, 7, 4, None, 2, None, 0, None, 0)


def test_a_stream_is_read_as_it_passes() -> None:
    found = reader()
    out = b""
    for one in CHAT_EVENTS:
        sent = found.feed(one)
        assert sent is one or one == DONE
        out += sent
    assert (found.usage, found.model, found.finish_reason) == (EXPECTED, "gpt-4o-mini-x", "stop")
    assert (found.generated, found.finished, found.failed) == (3, True, False)
    assert out + found.flush() == b"".join(CHAT_EVENTS)
    assert out == b"".join(CHAT_EVENTS[:-1])


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_the_usage_chunk_the_guard_asked_for_is_taken_out(size: int) -> None:
    found = reader(asked=True)
    body = b"".join(CHAT_EVENTS)
    out = b"".join(found.feed(body[at : at + size]) for at in range(0, len(body), size)) + found.flush()
    assert out == body.replace(USAGE_CHUNK, b"")
    assert found.usage == EXPECTED


def test_chunks_without_choices_or_usage_stay() -> None:
    filtered = chunk([], prompt_filter_results=[], usage=None)
    with_choice = chunk([piece("x")], usage=USAGE)
    found = reader(asked=True)
    assert found.feed(filtered + with_choice) == filtered + with_choice


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, Usage(3, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "prompt_cache_hit_tokens": 1}, Usage(3, 2, 1)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "num_cached_tokens": 1}, Usage(3, 2, 1)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}, Usage(3, 2, 1)),
        (
            {
                "prompt_tokens": 49,
                "completion_tokens": 32,
                "total_tokens": 264,
                "completion_tokens_details": {"reasoning_tokens": 183},
            },
            Usage(49, 215, reasoning_tokens=183),
        ),
        (
            {
                "prompt_tokens": 11,
                "completion_tokens": 15,
                "total_tokens": 401,
                "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 9},
            },
            Usage(386, 15, 9, input_audio_tokens=375),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 3,
                "cache_creation": {"ephemeral_1h_input_tokens": 1},
            },
            Usage(9, 2, 5, 3, None, 1),
        ),
        ({"prompt_tokens": 4, "completion_tokens": None, "prompt_tokens_details": None}, Usage(4, 0)),
        ({"prompt_tokens": "many", "completion_tokens": -3}, None),
        ({}, None),
        (None, None),
        ("none", None),
        ([1], None),
    ],
)
def test_every_provider_s_usage(usage: Any, expected: Usage | None) -> None:
    assert read(chunk([piece("x")], usage=usage)).usage == expected
    whole = reader()
    whole.whole(200, "application/json", json.dumps({"choices": [], "usage": usage}).encode())
    assert whole.usage == expected


def test_the_last_of_several_usages_counts() -> None:
    parts = [chunk([piece("x")], usage={"prompt_tokens": 1, "completion_tokens": n}) for n in (1, 2, 9)]
    assert read(*parts, chunk([piece("y")], usage=None)).usage == Usage(1, 9)


def test_groq_s_usage_is_found() -> None:
    assert read(chunk([piece()], x_groq={"usage": {"prompt_tokens": 1, "completion_tokens": 2}})).usage == Usage(1, 2)
    assert read(chunk([piece()], x_groq={"id": "req"})).usage is None


def test_an_error_in_a_stream_is_held_with_what_follows() -> None:
    found = reader()
    error = event({"error": {"message": "no", "code": 400}, "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert found.feed(CHAT_EVENTS[0] + error + DONE) == CHAT_EVENTS[0]
    assert (found.failed, found.finished, found.usage) == (True, True, Usage(1, 2))
    assert found.flush() == error + DONE


def test_a_stream_without_an_end_marker_is_unfinished() -> None:
    found = reader()
    body = b"".join(CHAT_EVENTS[:-1])
    assert found.feed(body) == body
    assert (found.finished, found.usage, found.flush()) == (False, EXPECTED, b"")


def test_usage_is_known_though_the_last_blank_line_never_comes() -> None:
    found = reader()
    found.feed(b"".join(CHAT_EVENTS[:-2]) + USAGE_CHUNK[:-2])
    assert (found.usage, found.finished, found.flush()) == (EXPECTED, False, b"")


@pytest.mark.parametrize(
    ("delta", "tokens"),
    [
        ({"content": "Hello there, world"}, 4),
        ({"content": [{"type": "text", "text": "abcdefgh"}]}, 3),
        ({"reasoning_content": "Let me think."}, 3),
        ({"content": "", "reasoning": "Hm."}, 1),
        ({"refusal": "I cannot"}, 2),
        ({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Paris"}'}}]}, 8),
        ({"function_call": {"arguments": '{"a":1}'}}, 3),
        ({"audio": {"id": "audio_1", "data": "A" * 9_600}}, 3),
        ({"audio": "?", "tool_calls": 5, "content": 7, "reasoning": {"x": ["ab", 3]}}, 1),
        ({"role": "assistant", "content": ""}, 0),
    ],
)
def test_generated_tokens_are_estimated(delta: dict, tokens: int) -> None:
    assert read(chunk([piece(**delta)])).generated == tokens


def test_speech_is_an_object_that_later_calls_may_name() -> None:
    assert read(chunk([piece(audio={"id": "audio_1"})])).created == [ObjectRef("audio", "audio_1")]


def test_the_first_event_may_be_nameless() -> None:
    nameless = event({"id": "", "model": "", "choices": [], "prompt_filter_results": []})
    assert read(nameless, *CHAT_EVENTS).model == "gpt-4o-mini-x"


def test_a_whole_reply() -> None:
    body = {"id": "1", "model": "m-1", "choices": [{"message": {"content": "a" * 40}, "finish_reason": "length"}]}
    found = reader()
    found.whole(200, "application/json", json.dumps({**body, "usage": USAGE}).encode())
    assert (found.usage, found.model, found.finish_reason, found.generated) == (EXPECTED, "m-1", "length", 7)
    unreported = reader()
    unreported.whole(200, "application/json", json.dumps(body).encode())
    assert (unreported.usage, unreported.finish_reason, unreported.generated) == (None, "length", 10)


def test_a_plain_reply_is_read_as_any_other() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    odd = (None, 0, 1, 5, 7, -1, 1.5, "3", True, {}, [])
    for _ in range(2_000):
        parts = [{name: rng.choice(odd) for name in rng.sample(PARTS, 2)} for _ in range(2)]
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": rng.choice((18, 20, None))}
        usage |= {"prompt_tokens_details": parts[0], "completion_tokens_details": rng.choice((None, parts[1]))}
        if rng.random() < 0.3:
            usage |= {rng.choice((*usage, "cached_tokens", "service_tier")): rng.choice(odd)}
        choice = {"message": {"content": "x"}, "finish_reason": rng.choice((None, "", "stop", 1))}
        choice["message"] |= rng.choice(({}, {}, {"audio": {"id": "a"}}, {"audio": None}))
        body = {"id": rng.choice(("1", "", None)), "model": rng.choice(("m", "", "gpt-4o-search-preview", None))}
        body |= {"choices": [choice], "usage": usage, "service_tier": rng.choice((None, "auto", "flex", 1))}
        data = json.dumps(body).encode()
        quick, slow = reader(store=True), reader(store=True)
        quick._reply(data)
        slow._any_reply(data)
        for name in ("usage", "model", "service_tier", "finish_reason", "created"):
            assert getattr(quick, name) == getattr(slow, name), (name, body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"<html>", b'{"choices":{}}', b'{"choices":[[]],"usage":7}', b"[" * 9_999]
)
def test_a_reply_nobody_understands_leaves_usage_open(body: bytes) -> None:
    found = reader()
    found.whole(200, "application/json", body)
    assert found.usage is None
    assert read(b"data: " + body + b"\n\n").usage is None


def test_usage_is_read_where_choices_are_odd() -> None:
    body = json.dumps({"model": "m", "choices": {"0": {}}, "usage": USAGE}).encode()
    found = reader()
    found.whole(200, "application/json", body)
    assert (found.usage, found.model) == (EXPECTED, "m")
    assert read(*CHAT_EVENTS[:1], b"data: " + body + b"\n\n").usage == EXPECTED


def test_an_error_reply_costs_nothing() -> None:
    found = reader()
    found.whole(429, "application/json", json.dumps({"error": {}, "usage": USAGE}).encode())
    assert found.usage is None
