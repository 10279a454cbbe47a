"""Bodies that no dialect understands: what is still read of them, and what is refused."""

from __future__ import annotations

import json

import pytest

from llmguard.core.call import Call, Edits, ObjectRef, Request
from llmguard.core.decision import Refuse
from llmguard.errors import BadCall
from llmguard.providers.anthropic_messages import AnthropicMessages
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.unknown import Unknown

UNKNOWN = Unknown(OpenAIChat())
JSON, FORM = "application/json", "multipart/form-data; boundary=b"


def parse(body: bytes, content_type: str = JSON, query: str = "", endpoint: str = "/v1/rerank", **headers: str) -> Call:
    head = {"content-type": content_type} | headers
    return UNKNOWN.parse(Request("POST", endpoint, query, head, body), endpoint, None)


def form(*fields: tuple[str, str]) -> bytes:
    lines = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    return "".join([*lines, "--b--\r\n"]).encode()


def test_a_json_body_names_a_model_and_objects_and_is_not_metered() -> None:
    call = parse(b'{"model":"rerank-3","documents":[],"file_id":"file-1","stream":true}')
    assert (call.dialect, call.family, call.metered, call.generates) == ("unknown", "openai", False, False)
    assert (call.model, call.stream, call.prompt_bytes) == ("rerank-3", True, 0)
    assert call.reads == (ObjectRef("file", "file-1"),)
    assert UNKNOWN.texts(call) == ()


@pytest.mark.parametrize("model", ["5", "null", '""', json.dumps("m" * 201), '["m"]'])
def test_a_model_that_is_none(model: str) -> None:
    assert parse(b'{"model":%s}' % model.encode()).model == ""


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"model":"a","model":"b"}', JSON),
        (b'{"model":', JSON),
        (b'{"model":"a","model":"b"}', "text/plain"),
        (b" [1]", "text/plain"),
        (b"model=a", JSON),
    ],
)
def test_json_is_read_as_strictly_as_where_it_is_metered(body: bytes, content_type: str) -> None:
    with pytest.raises(BadCall) as caught:
        parse(body, content_type)
    assert caught.value.code == "invalid_json"


def test_a_form_names_its_model() -> None:
    assert parse(form(("model", "whisper-1"), ("language", "de")), FORM).model == "whisper-1"
    assert parse(b"RIFF....", "audio/wav").model == ""
    assert parse(b"", "").model == ""


@pytest.mark.parametrize(
    "disposition",
    ['name="file_id"', "name=file_id", 'NAME = "File_ID"', "name*=utf-8''file_id", 'name="file_ids[]"'],
)
def test_a_form_may_not_name_objects(disposition: str) -> None:
    body = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\nfile-1\r\n--b--\r\n"
    with pytest.raises(BadCall, match="in a JSON body"):
        parse(body.encode(), FORM)


def test_a_urlencoded_form_is_refused() -> None:
    with pytest.raises(BadCall) as caught:
        parse(b"file_id=file-1", "application/x-www-form-urlencoded")
    assert caught.value.status == 415


def test_a_wish_for_a_stream() -> None:
    assert parse(b"{}", query="stream=true").stream
    assert parse(b"{}", accept="text/event-stream").stream
    assert not parse(b'{"stream":"true"}', query="stream=false").stream


def test_only_the_model_is_ever_rewritten() -> None:
    call = parse(b'{"model":"a", "x":1.0}')
    assert UNKNOWN.rewrite(call, Edits(max_tokens=5)) == call.body
    assert UNKNOWN.rewrite(call, Edits(model="b")) == b'{"model":"b","x":1.0}'
    assert UNKNOWN.rewrite(parse(form(("model", "a")), FORM), Edits(model="b")) == form(("model", "a"))


def test_a_reply_passes_and_its_usage_is_not_believed() -> None:
    reader = UNKNOWN.reader(parse(b"{}"), asked_usage=False)
    chunk = b'data: {"usage":{"prompt_tokens":1}}\n\n'
    assert reader.feed(chunk) is chunk
    assert (reader.flush(), reader.cut(Refuse("x", 429, "No."), "r")) == (b"", b"")
    reader.whole(200, JSON, b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    assert (reader.usage, reader.created) == (None, [])


def test_a_finished_batch_gives_its_team_the_results() -> None:
    call = parse(b"", endpoint="/v1/batches/{batch}")
    reader = UNKNOWN.reader(call, asked_usage=False)
    reader.whole(200, JSON, b'{"id":"batch_1","output_file_id":"file-o"}')
    assert reader.created == [ObjectRef("file", "file-o")]
    elsewhere = UNKNOWN.reader(parse(b""), asked_usage=False)
    elsewhere.whole(200, JSON, b'{"output_file_id":"file-victim"}')
    assert elsewhere.created == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 9_999])
def test_a_reply_that_says_nothing_made_nothing(body: bytes) -> None:
    call = parse(b"{}")
    call.creates = "file"
    reader = UNKNOWN.reader(call, asked_usage=False)
    reader.whole(200, JSON, body)
    reader.whole(404, JSON, b'{"id":"file-1"}')
    reader.whole(200, "text/html", b'{"id":"file-1"}')
    assert reader.created == []


def test_refusals_have_the_shape_of_the_family() -> None:
    refuse = Refuse("not_priced", 403, "closed")
    shapes = [
        json.loads(Unknown(d).refusal(refuse, "r")) for d in (OpenAIChat(), AnthropicMessages(), GeminiGenerate())
    ]
    assert [shape["error"].get("code") for shape in shapes] == ["not_priced", None, 403]
    assert [shape.get("type") for shape in shapes] == [None, "error", None]
    assert {shape["error"]["message"] for shape in shapes} == {"closed"}
