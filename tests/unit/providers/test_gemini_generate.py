"""What the Gemini dialects read from a request, and the edits they make to one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.core.call import Call, Edits, ObjectRef, Request
from llmguard.core.decision import Refuse
from llmguard.errors import BadCall
from llmguard.providers import gemini_common as common
from llmguard.providers.gemini_array import ArrayReader
from llmguard.providers.gemini_embed import GeminiEmbed
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.gemini_reply import GeminiReader
from tests.support.upstream import upstream

GENERATE = "/v1beta/models/{model}:generateContent"
STREAM = "/v1beta/models/{model}:streamGenerateContent"
BATCH = "/v1beta/models/{model}:batchEmbedContents"
DIALECT, EMBED = GeminiGenerate(), GeminiEmbed()
HELLO = [{"role": "user", "parts": [{"text": "Hello"}]}]


def parse(body: bytes, endpoint: str = GENERATE, query: str = "") -> Call:
    return DIALECT.parse(Request("POST", endpoint, query, {}, body), endpoint, "gemini-2.5-flash")


def call(**fields: Any) -> Call:
    return parse(json.dumps({"contents": HELLO} | fields).encode())


def parts(*some: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": list(some)}]


def embed(**fields: Any) -> Call:
    return EMBED.parse(Request("POST", BATCH, "", {}, json.dumps(fields).encode()), BATCH, "gemini-embedding-001")


def test_an_ordinary_call() -> None:
    it = call(generationConfig={"maxOutputTokens": 50, "candidateCount": 2, "thinkingConfig": {"thinkingBudget": 0}})
    assert (it.model, it.max_tokens, it.choices, it.stream) == ("gemini-2.5-flash", 50, 2, False)
    assert (it.generates, it.metered, it.hidden_output, it.server_context, it.reads) == (True, True, False, False, ())
    assert (it.prompt_bytes, it.extra_input_tokens) == (len(it.body), 0)
    assert DIALECT.texts(it) == ["Hello"]


def test_both_spellings_mean_the_same_and_integers_come_as_strings_too() -> None:
    thinking = {"thinking_budget": 0}
    snake = call(generation_config={"max_output_tokens": "50", "candidate_count": 2, "thinking_config": thinking})
    assert (snake.max_tokens, snake.choices, snake.hidden_output) == (50, 2, False)
    blob = {"mime_type": "image/png", "data": "A" * 4000}
    assert call(contents=parts({"inline_data": blob})).extra_input_tokens == common.IMAGE_TOKENS


@pytest.mark.parametrize(
    "fields",
    [
        {"generationConfig": {}, "generation_config": {}},
        {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
        {"generationConfig": {"candidateCount": 1, "candidate_count": 9}},
        {"generationConfig": {"thinkingConfig": {}, "thinking_config": {}}},
        {"generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinking_budget": 9}}},
        {"systemInstruction": {}, "system_instruction": {}},
        {"cachedContent": "cachedContents/a", "cached_content": "cachedContents/b"},
        {"contents": parts({"inlineData": {"data": "", "mimeType": "image/png", "mime_type": "audio/wav"}})},
    ],
)
def test_both_spellings_at_once_are_a_duplicate(fields: dict[str, Any]) -> None:
    with pytest.raises(BadCall) as caught:
        call(**fields)
    assert (caught.value.code, caught.value.status) == ("duplicate_field", 400)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"contents": 1}, "contents"),
        ({"contents": ["Hello"]}, "contents"),
        ({"contents": [{"parts": "Hello"}]}, "contents.parts"),
        ({"contents": parts({"inlineData": 1})}, "contents.parts.inlineData"),
        ({"contents": parts({"inlineData": {"data": 1}})}, "contents.parts.inlineData.data"),
        ({"systemInstruction": 1}, "systemInstruction"),
        ({"tools": [1]}, "tools"),
        ({"generationConfig": []}, "generationConfig"),
        ({"generationConfig": {"maxOutputTokens": "many"}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"maxOutputTokens": "-1"}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"maxOutputTokens": 2**31}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"maxOutputTokens": "٣"}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 4096}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"thinkingConfig": 1}}, "generationConfig.thinkingConfig"),
        ({"cachedContent": 1}, "cachedContent"),
        ({"model": "models/gemini-3-pro"}, "model"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadCall) as caught:
        call(**fields)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_one_object_may_stand_for_a_list() -> None:
    system = {"parts": {"text": "Be brief."}}
    it = call(systemInstruction=system, contents={"parts": {"text": "Hi"}}, tools={"googleSearch": {}})
    assert DIALECT.texts(it) == ['{"googleSearch":{}}', "Be brief.", "Hi"]
    assert it.server_context


@pytest.mark.parametrize(
    ("mime", "size", "tokens", "audio"),
    [
        ("image/png", 40_000, common.IMAGE_TOKENS, False),
        ("audio/wav", 32_000, 1_001, True),
        ("video/mp4", 32_000, 4_001, True),
        ("application/pdf", 10_000, 3 * common.PAGE_TOKENS, False),
        ("text/plain", 4_000, 4_000, False),
    ],
)
def test_media_count_by_kind_and_not_by_their_base64(mime: str, size: int, tokens: int, audio: bool) -> None:
    blob = {"inlineData": {"mimeType": mime, "data": "A" * size}}
    for contents in (parts(blob), parts({"functionResponse": {"name": "f", "response": {}, "parts": [blob]}})):
        it = call(contents=contents)
        assert (it.extra_input_tokens, it.audio) == (tokens, audio)
        assert it.prompt_bytes == len(it.body) - size


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({"cachedContent": "cachedContents/c1"}, [("cached_content", "c1")]),
        ({"cached_content": "projects/9/locations/l/cachedContents/c1"}, [("cached_content", "c1")]),
        ({"contents": parts({"fileData": {"fileUri": "files/f1"}})}, [("file", "f1")]),
        (
            {
                "contents": parts(
                    {"file_data": {"file_uri": "https://generativelanguage.googleapis.com/v1beta/files/f1"}}
                )
            },
            [("file", "f1")],
        ),
        (
            {
                "contents": parts(
                    {"fileData": {"fileUri": "HTTPS://GenerativeLanguage.googleapis.com/v1/files/f1:download"}}
                )
            },
            [("file", "f1")],
        ),
        ({"contents": parts({"fileData": {"fileUri": "something else"}})}, [("file", "something else")]),
        ({"contents": parts({"fileData": {"fileUri": "gs://bucket/film.mp4"}})}, []),
        ({"contents": parts({"fileData": {"fileUri": "https://www.youtube.com/watch?v=files/f1"}})}, []),
        ({"tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/s1"]}}]}, [("file_search_store", "s1")]),
        ({"tools": [{"googleSearch": {}}]}, []),
    ],
)
def test_what_lies_elsewhere_is_unseen_input_and_must_be_the_callers(
    fields: dict[str, Any], reads: list[tuple[str, str]]
) -> None:
    it = call(**fields)
    assert it.server_context
    assert it.reads == tuple(ObjectRef(*pair) for pair in reads)


def test_a_functions_own_data_names_no_objects() -> None:
    use = {"functionCall": {"name": "f", "args": {"fileUri": "files/x", "cachedContent": "y"}}}
    answer = {"functionResponse": {"name": "f", "response": {"file_uri": "files/x"}}}
    assert call(contents=parts(use, answer)).reads == ()
    assert DIALECT.texts(call(contents=parts(use))) == ["f", '{"fileUri":"files/x","cachedContent":"y"}']


@pytest.mark.parametrize(
    ("query", "reader"),
    [("alt=sse", GeminiReader), ("a=b&%24alt=sse", GeminiReader), ("", ArrayReader), ("alt=json", ArrayReader)],
)
def test_a_stream_is_events_or_one_array(query: str, reader: type) -> None:
    it = parse(json.dumps({"contents": HELLO}).encode(), STREAM, query)
    assert it.stream
    assert type(DIALECT.reader(it, asked_usage=False)) is reader


def test_counting_tokens_generates_nothing() -> None:
    it = parse(json.dumps({"contents": HELLO}).encode(), "/v1beta/models/{model}:countTokens")
    assert not it.generates
    assert not it.stream


def test_spoken_output_is_audio() -> None:
    assert call(generationConfig={"responseModalities": ["AUDIO"]}).audio
    assert not call(generationConfig={"responseModalities": ["TEXT"]}).audio


def test_edits_change_one_field_and_no_other_byte() -> None:
    contents = b'[ {"parts":[{"text":"h\\u00e9"}]} ]'
    body = b'{ "contents" : %s, "generation_config":{ "topK" : 1, "max_output_tokens":9} }' % contents
    it = parse(body)
    assert DIALECT.rewrite(it, Edits()) == body
    assert DIALECT.rewrite(it, Edits(model="other")) == body
    edited = DIALECT.rewrite(it, Edits(max_tokens=5))
    assert json.loads(edited)["generation_config"] == {"topK": 1, "max_output_tokens": 5}
    assert contents in edited
    for config in ({}, {"generationConfig": None}, {"generationConfig": {}}):
        edited = DIALECT.rewrite(call(**config), Edits(max_tokens=5))
        assert json.loads(edited) == {"contents": HELLO, "generationConfig": {"maxOutputTokens": 5}}


def test_a_body_that_repeats_the_model_of_its_path_follows_it() -> None:
    it = call(model="models/gemini-2.5-flash")
    assert json.loads(DIALECT.rewrite(it, Edits(model="gemini-3-flash")))["model"] == "models/gemini-3-flash"


def test_embeddings_are_many_texts_for_one_model() -> None:
    requests = [
        {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "a"}]}, "taskType": "X"},
        {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "b"}, {"text": "c"}]}},
    ]
    it = embed(requests=requests)
    assert (it.generates, it.metered, it.stream) == (False, True, False)
    assert EMBED.texts(it) == ["a", "b", "c"]
    edited = json.loads(EMBED.rewrite(it, Edits(model="other")))
    assert edited == {"requests": [one | {"model": "models/other"} for one in requests]}
    with pytest.raises(BadCall, match=r"requests\.model"):
        embed(requests=[requests[0], requests[1] | {"model": "models/dearer"}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "contents",
    "systemInstruction",
    "generationConfig",
    "generation_config",
    "tools",
    "cachedContent",
    "requests",
]
INNER = ["parts", "text", "inlineData", "inline_data", "data", "mimeType", "fileData", "file_uri", "maxOutputTokens"]
INNER += ["thinkingConfig", "functionResponse", "response", "candidateCount", "content", "model", "responseModalities"]
SHAPED = st.recursive(
    JSON | st.sampled_from(["image/png", "AUDIO", "12", "files/x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), SHAPED, max_size=5) | JSON)
def test_any_document_is_understood_or_refused_and_what_is_understood_can_be_used(document: Any) -> None:
    body = json.dumps(document).encode()
    for dialect in (DIALECT, EMBED):
        try:
            it = dialect.parse(Request("POST", GENERATE, "", {}, body), GENERATE, "m")
        except BadCall:
            continue
        assert it.prompt_bytes >= 0
        assert all(isinstance(text, str) for text in dialect.texts(it))
        assert dialect.overhead_tokens(it) >= 0
        edited = json.loads(dialect.rewrite(it, Edits(model="other", max_tokens=5)))
        assert edited.keys() >= json.loads(body).keys()


@pytest.mark.parametrize(
    ("refuse", "error", "status", "delay"),
    [
        (Refuse("budget_contended", 429, "No.", retry_after=3), errors.ClientError, "RESOURCE_EXHAUSTED", "3s"),
        (Refuse("budget_exceeded", 429, "No.", 99, should_retry=False), errors.ClientError, "RESOURCE_EXHAUSTED", None),
        (Refuse("runaway_tripped", 403, "No."), errors.ClientError, "PERMISSION_DENIED", None),
        (Refuse("quota_unavailable", 503, "No.", retry_after=5), errors.ServerError, "UNAVAILABLE", "5s"),
    ],
)
def test_a_refusal_is_the_exception_that_the_sdk_makes_of_such_an_error(
    refuse: Refuse, error: type[errors.APIError], status: str, delay: str | None
) -> None:
    with upstream() as server:
        server.reply(status=refuse.status, body=DIALECT.refusal(refuse, "rid-1"))
        client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
        with pytest.raises(error) as caught:
            client.models.generate_content(model="m", contents="x")
        client.close()
    exc = caught.value
    assert (exc.code, exc.status, exc.message) == (refuse.status, status, "No.")
    details = exc.details["error"]
    assert details["llmguard"]["request_id"] == "rid-1"
    assert details["details"][0]["reason"] == refuse.code.upper()
    assert [one["retryDelay"] for one in details["details"][1:]] == ([delay] if delay else [])
