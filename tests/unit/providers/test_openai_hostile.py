"""Whatever JSON arrives, it becomes a call or a clear refusal, and a reply never breaks its reader."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.core.call import Call, Edits
from llmguard.core.decision import Refuse
from llmguard.errors import BadCall
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_embeddings import OpenAIEmbeddings
from llmguard.providers.openai_responses import OpenAIResponses
from tests.support.openai_traffic import request

DIALECTS = [
    (OpenAIChat(), "/v1/chat/completions"),
    (OpenAIChat(), "/v1/completions"),
    (OpenAIResponses(), "/v1/responses"),
    (OpenAIEmbeddings(), "/v1/embeddings"),
]
WORDS = """
    model messages role content type text image_url url file file_id file_data input_audio data name tool_calls
    function tools stream stream_options include_usage max_tokens max_completion_tokens max_output_tokens n best_of
    prompt input user store audio id modalities reasoning effort instructions previous_response_id conversation
    variables output result container container_id encrypted_content summary background usage choices delta message
    finish_reason error index response item sequence_number status incomplete_details x_groq prompt_tokens
    completion_tokens total_tokens input_tokens output_tokens prompt_tokens_details cached_tokens reason arguments
""".split()  # noqa: SIM905
KINDS = """
    text input_text input_image image_url input_audio input_file file item_reference reasoning message
    function_call_output image_generation_call code_interpreter_call additional_tools namespace web_search
    response.created response.completed response.output_text.delta response.output_item.done error
""".split()  # noqa: SIM905
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(KINDS)
    | st.text(max_size=3)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.sampled_from(WORDS), JSON, max_size=6)
REFUSE = Refuse("budget_exceeded", 429, "no")


def understood(dialect: Any, path: str, body: bytes) -> Call | None:
    try:
        return dialect.parse(request(body, path), path, None)
    except BadCall as error:
        refused = error
    assert (refused.status, bool(refused.message)) == (400, True)
    return None


@pytest.mark.parametrize(("dialect", "path"), DIALECTS, ids=[path for _, path in DIALECTS])
@settings(max_examples=120, deadline=None)
@given(doc=OBJECT)
def test_any_object_is_a_call_or_refused(dialect: Any, path: str, doc: dict) -> None:
    body = json.dumps({"model": "gpt-4o", **doc}).encode()
    call = understood(dialect, path, body)
    if call is None:
        return
    assert call.prompt_bytes >= 0
    assert call.extra_input_tokens >= 0
    assert call.choices >= 1
    assert all(type(text) is str for text in dialect.texts(call))
    assert dialect.overhead_tokens(call) >= 0
    changed = json.loads(dialect.rewrite(call, Edits(model="other", max_tokens=7, ask_usage=True)))
    assert changed["model"] == "other"
    touched = {"model", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream_options"}
    assert {k: v for k, v in changed.items() if k not in touched} == {
        k: v for k, v in call.doc.items() if k not in touched
    }


@pytest.mark.parametrize(("dialect", "path"), DIALECTS, ids=[path for _, path in DIALECTS])
@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=40) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_body_is_a_call_or_refused(dialect: Any, path: str, body: bytes) -> None:
    understood(dialect, path, body)


@pytest.mark.parametrize(("dialect", "path"), DIALECTS, ids=[path for _, path in DIALECTS])
@settings(max_examples=80, deadline=None)
@given(events=st.lists(JSON | st.binary(max_size=12), max_size=5), cut=st.booleans(), asked=st.booleans())
def test_any_reply_can_be_read(dialect: Any, path: str, events: list, cut: bool, asked: bool) -> None:
    call = dialect.parse(request(b'{"model":"gpt-4o","stream":true}', path), path, None)
    bodies = [event if type(event) is bytes else json.dumps(event).encode() for event in events]
    reader = dialect.reader(call, asked_usage=asked)
    stream = b"".join(b"data: " + body + b"\n\n" for body in bodies)
    out = reader.feed(stream) + (reader.cut(REFUSE, "r") if cut else reader.flush())
    assert asked or cut or out == stream
    for body in bodies:
        dialect.reader(call, asked_usage=asked).whole(200, "application/json", body)
