"""The sandbox through the eyes of the official SDKs: every shape they read, whole and streamed, and exact usage."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest
from google import genai
from google.genai import types as gt
from openai import types as oai_types
from openai.types import chat as oai_chat
from openai.types import responses as oai_responses
from pydantic import BaseModel, TypeAdapter

from llmguard.providers.sandbox import Answer, Ask, Shelf, respond
from llmguard.providers.sandbox.draft import count, texts_of
from llmguard.providers.sandbox.embeddings import vector
from llmguard.providers.sandbox.sample import sample
from llmguard.providers.sandbox.shelf import Item

NOW = 1_790_000_000
HELLO = "Hello there, sandbox"  # 20 bytes: 5 tokens
DIGEST = sha256(HELLO.encode()).hexdigest()[:8]
REPLY = f"Sandbox reply {DIGEST}: {HELLO}"  # 6 words: 6 tokens
TURN: list[Any] = [{"role": "user", "content": HELLO}]
LOOK_UP = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["celsius"]}},
    "required": ["city"],
}

TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": LOOK_UP}}]
FLAT_TOOLS: list[Any] = [{"type": "function", "name": "f", "parameters": LOOK_UP, "strict": True}]
CALLING: list[Any] = [{"role": "user", "content": "use the tool"}]
PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURN},
    "/v1/completions": {"prompt": HELLO},
    "/v1/responses": {"input": HELLO},
    "/v1/messages": {"messages": TURN, "max_tokens": 5000},
}


class Box:
    """A sandbox with counting ids, reached without a network."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.shelf = Shelf()
        self.new_id: Callable[[str], str] = lambda prefix: f"{prefix}{next(numbers)}"

    def ask(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        path, _, query = target.partition("?")
        return respond(Ask(method, path, query, headers or {}, body, self.new_id, NOW, self.shelf))

    def post(self, target: str, **doc: Any) -> Any:
        return self.ask("POST", target, json.dumps(doc).encode())

    def client(self) -> httpx2.Client:
        def handle(request: httpx2.Request) -> httpx2.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            got = self.ask(request.method, request.url.raw_path.decode(), request.read(), headers)
            return httpx2.Response(got.status, headers=got.headers, content=b"".join(got.pieces))

        return httpx2.Client(transport=httpx2.MockTransport(handle))


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def oai(box: Box) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url="http://sandbox/v1", http_client=box.client(), max_retries=0) as client:
        yield client


@pytest.fixture
def ant(box: Box) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url="http://sandbox", http_client=box.client(), max_retries=0) as client:
        yield client


@pytest.fixture
def gem(box: Box) -> Iterator[genai.Client]:
    options = gt.HttpOptions(base_url="http://sandbox", httpx_client=box.client())
    with genai.Client(api_key="k", http_options=options) as client:
        yield client


def documents(answer: Answer) -> list[Any]:
    """The JSON of every data line of a stream, `[DONE]` left out."""
    lines = b"".join(answer.pieces).decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


# Tokens that can be predicted


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [([], 1), (["abcd"], 1), (["abcde"], 2), (["ab", "cdef"], 2), (["äöü"], 2), (["x" * 4001], 1001)],
)
def test_input_tokens_are_bytes_by_four_rounded_up(texts: list[str], tokens: int) -> None:
    assert count(texts) == tokens


def test_texts_are_found_in_every_dialects_messages() -> None:
    assert texts_of(
        [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "input_text", "text": "c"}]},
            {"type": "tool_result", "content": [{"type": "text", "text": "d"}]},
            {"role": "model", "parts": [{"text": "e"}, {"inlineData": {"data": "AAAA"}}]},
            {"type": "function_call_output", "call_id": "x", "output": "f"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "g"}}]},
        ]
    ) == ["a", "b", "c", "d", "e", "f", "g"]
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert texts_of(deep) == []


# OpenAI chat and completions


def test_openai_chat_whole(oai: openai.OpenAI) -> None:
    got = oai.chat.completions.create(model="echo", messages=[{"role": "user", "content": HELLO}])
    assert (got.id, got.object, got.created, got.model) == ("chatcmpl-2", "chat.completion", NOW, "echo")
    assert [(c.index, c.message.content, c.finish_reason) for c in got.choices] == [(0, REPLY, "stop")]
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (5, 6, 11)
    assert got._request_id == "req_3"


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
def test_openai_chat_stream_reports_usage_only_when_asked(oai: openai.OpenAI, options: Any) -> None:
    more = {"stream_options": options} if options else {}
    chunks = list(
        oai.chat.completions.create(model="echo", messages=[{"role": "user", "content": HELLO}], stream=True, **more)
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == REPLY
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 7 + ["stop"]
    asked = options == {"include_usage": True}
    assert [c.usage.total_tokens for c in chunks if c.usage] == ([11] if asked else [])
    assert [c.choices for c in chunks[-1:]] == [[]] if asked else chunks[-1].choices


def test_openai_chat_stops_at_max_tokens_and_gives_n_choices(oai: openai.OpenAI) -> None:
    got = oai.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": HELLO}], max_completion_tokens=2, n=3
    )
    assert [(c.index, c.message.content, c.finish_reason) for c in got.choices] == [
        (n, "Sandbox reply", "length") for n in range(3)
    ]
    assert got.usage is not None
    assert got.usage.completion_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
def test_openai_chat_calls_a_tool_once(oai: openai.OpenAI, stream: bool) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": LOOK_UP}}]
    asked: Any = [{"role": "user", "content": "Please use the tool."}]
    if stream:
        with oai.chat.completions.stream(model="echo", messages=asked, tools=tools) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = oai.chat.completions.create(model="echo", messages=asked, tools=tools).choices[0]  # type: ignore[assignment]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    digest = sha256(b"Please use the tool.").hexdigest()[:8]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": digest, "days": 1, "unit": "celsius"}
    turn = [*asked, {"role": "tool", "tool_call_id": call.id, "content": "use the tool: 20 degrees"}]
    again = oai.chat.completions.create(model="echo", messages=turn, tools=tools)
    assert again.choices[0].finish_reason == "stop"


def test_openai_chat_parses_into_a_model(oai: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: str
        days: int
        hours: list[str]
        note: str | None

    got = oai.chat.completions.parse(
        model="echo", messages=[{"role": "user", "content": HELLO}], response_format=Weather
    )
    assert got.choices[0].message.parsed == Weather(city=DIGEST, days=1, hours=[], note=DIGEST)


def test_openai_legacy_completions(oai: openai.OpenAI) -> None:
    got = oai.completions.create(model="echo", prompt=HELLO, n=2)
    assert [(c.index, c.text, c.finish_reason) for c in got.choices] == [(0, REPLY, "stop"), (1, REPLY, "stop")]
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (5, 12)
    chunks = list(oai.completions.create(model="echo", prompt=HELLO, stream=True, max_tokens=3))
    assert "".join(c.choices[0].text for c in chunks) == f"Sandbox reply {DIGEST}:"
    assert chunks[-1].choices[0].finish_reason == "length"


# OpenAI responses


def test_openai_response_whole(oai: openai.OpenAI) -> None:
    got = oai.responses.create(model="echo", input=HELLO, metadata={"job": "1"})
    assert (got.status, got.output_text, got.metadata) == ("completed", REPLY, {"job": "1"})
    assert got.usage is not None
    assert (got.usage.input_tokens, got.usage.output_tokens, got.usage.total_tokens) == (5, 6, 11)
    cut = oai.responses.create(model="echo", input=HELLO, max_output_tokens=1)
    assert cut.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason, cut.output_text) == (
        "incomplete",
        "max_output_tokens",
        "Sandbox",
    )


def test_openai_response_stream(oai: openai.OpenAI) -> None:
    with oai.responses.stream(model="echo", input=HELLO) as events:
        kinds = [(event.type, event.sequence_number) for event in events]
        final = events.get_final_response()
    assert [number for _, number in kinds] == list(range(len(kinds)))
    assert [kind for kind, _ in itertools.groupby(kind for kind, _ in kinds)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == REPLY
    assert final.usage is not None
    assert final.usage.total_tokens == 11


@pytest.mark.parametrize("stream", [False, True])
def test_openai_response_calls_a_tool(oai: openai.OpenAI, stream: bool) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": LOOK_UP, "strict": False}]
    if stream:
        with oai.responses.stream(model="echo", input="use the tool", tools=tools) as events:
            got: Any = events.get_final_response()
    else:
        got = oai.responses.create(model="echo", input="use the tool", tools=tools)
    call = got.output[0]
    assert (call.type, call.name) == ("function_call", "weather")
    assert json.loads(call.arguments)["days"] == 1
    after = oai.responses.create(
        model="echo",
        previous_response_id=got.id,
        tools=tools,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "20"}],
    )
    assert after.output[0].type == "message"


def test_openai_responses_are_kept_continued_and_deleted(oai: openai.OpenAI) -> None:
    first = oai.responses.create(model="echo", input=HELLO)
    assert oai.responses.retrieve(first.id) == first
    second = oai.responses.create(model="echo", input=HELLO, previous_response_id=first.id)
    assert second.usage is not None
    assert second.usage.input_tokens == count([HELLO, REPLY, HELLO])
    oai.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        oai.responses.create(model="echo", input=HELLO, previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    unkept = oai.responses.create(model="echo", input=HELLO, store=False)
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(unkept.id)


# Embeddings


def test_openai_embeddings(oai: openai.OpenAI, box: Box) -> None:
    got = oai.embeddings.create(model="echo", input=[HELLO, HELLO, "budgets"])
    assert [row.index for row in got.data] == [0, 1, 2]
    assert [len(row.embedding) for row in got.data] == [256, 256, 256]
    assert got.data[0].embedding == got.data[1].embedding != got.data[2].embedding
    assert sum(x * x for x in got.data[0].embedding) == pytest.approx(1, rel=1e-6)
    assert (got.usage.prompt_tokens, got.usage.total_tokens) == (12, 12)
    small = oai.embeddings.create(model="echo", input=HELLO, dimensions=8, encoding_format="float")
    assert small.data[0].embedding == vector(HELLO, 8)
    tokens = json.loads(b"".join(box.post("/v1/embeddings", model="echo", input=[1, 2, 3]).pieces))
    assert (len(tokens["data"]), tokens["usage"]["prompt_tokens"]) == (1, 3)


def test_texts_with_words_in_common_lie_closer() -> None:
    def cosine(a: str, b: str) -> float:
        return sum(x * y for x, y in zip(vector(a), vector(b), strict=True))

    near = cosine("how do I reset my password", "how do I reset a password")
    far = cosine("how do I reset my password", "what will the weather be")
    assert near > 0.7 > 0.3 > far


# Anthropic


def test_anthropic_message_whole(ant: anthropic.Anthropic) -> None:
    got = ant.messages.create(model="echo", max_tokens=50, messages=[{"role": "user", "content": HELLO}])
    assert (got.id, got.type, got.role, got.model, got.stop_reason) == (
        "msg_1",
        "message",
        "assistant",
        "echo",
        "end_turn",
    )
    assert [block.text for block in got.content if block.type == "text"] == [REPLY]
    assert (got.usage.input_tokens, got.usage.output_tokens) == (5, 6)
    cut = ant.messages.create(model="echo", max_tokens=2, system="be good", messages=[{"role": "user", "content": "a"}])
    assert (cut.stop_reason, cut.usage.input_tokens, cut.usage.output_tokens) == ("max_tokens", 2, 2)


def test_anthropic_message_stream(ant: anthropic.Anthropic) -> None:
    with ant.messages.stream(model="echo", max_tokens=50, messages=[{"role": "user", "content": HELLO}]) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == REPLY
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 5, 6)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_calls_a_tool_once(ant: anthropic.Anthropic, stream: bool) -> None:
    tools: Any = [{"name": "weather", "input_schema": LOOK_UP}]
    asked: Any = [{"role": "user", "content": "use the tool"}]
    if stream:
        with ant.messages.stream(model="echo", max_tokens=50, messages=asked, tools=tools) as events:
            got: Any = events.get_final_message()
    else:
        got = ant.messages.create(model="echo", max_tokens=50, messages=asked, tools=tools)
    block = got.content[0]
    assert (got.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "weather")
    assert block.input["days"] == 1
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "use the tool: 20"}
    turns = [*asked, {"role": "assistant", "content": [block]}, {"role": "user", "content": [result]}]
    after = ant.messages.create(model="echo", max_tokens=50, messages=turns, tools=tools)
    assert after.stop_reason == "end_turn"


def test_anthropic_counts_tokens(ant: anthropic.Anthropic) -> None:
    got = ant.messages.count_tokens(model="echo", system="be good", messages=[{"role": "user", "content": HELLO}])
    assert got.input_tokens == count(["be good", HELLO])


# Gemini


def test_gemini_whole(gem: genai.Client) -> None:
    got = gem.models.generate_content(model="echo", contents=HELLO)
    assert (got.text, got.model_version) == (REPLY, "echo")
    assert got.candidates is not None
    assert got.candidates[0].finish_reason == gt.FinishReason.STOP
    usage = got.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count) == (5, 6, 11)
    cut = gem.models.generate_content(
        model="echo",
        contents=HELLO,
        config=gt.GenerateContentConfig(max_output_tokens=2, candidate_count=2, system_instruction="be good"),
    )
    assert cut.candidates is not None
    assert [c.finish_reason for c in cut.candidates] == [gt.FinishReason.MAX_TOKENS] * 2
    assert cut.usage_metadata is not None
    assert (cut.usage_metadata.prompt_token_count, cut.usage_metadata.candidates_token_count) == (7, 4)


def test_gemini_stream_counts_up(gem: genai.Client) -> None:
    chunks = list(gem.models.generate_content_stream(model="echo", contents=HELLO))
    assert "".join(chunk.text or "" for chunk in chunks) == REPLY
    counts = [chunk.usage_metadata.candidates_token_count for chunk in chunks if chunk.usage_metadata]
    assert counts == [1, 2, 3, 4, 5, 6]
    finishes = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates]
    assert finishes == [None] * 5 + [gt.FinishReason.STOP]


def test_gemini_stream_as_one_array(box: Box) -> None:
    contents = [{"role": "user", "parts": [{"text": HELLO}]}]
    got = box.post("/v1beta/models/sandbox/echo:streamGenerateContent", contents=contents)
    assert dict(got.headers)[b"content-type"] == b"application/json"
    chunks = json.loads(b"".join(got.pieces))
    assert "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks) == REPLY
    vertex = "/v1/projects/p/locations/l/publishers/google/models/echo:streamGenerateContent?$alt=sse"
    assert len(documents(box.post(vertex, contents=contents))) == 6


def test_gemini_calls_a_function(gem: genai.Client) -> None:
    declared = gt.FunctionDeclaration(name="weather", parameters_json_schema=LOOK_UP)
    upper = gt.FunctionDeclaration(
        name="weather",
        parameters=gt.Schema(type=gt.Type.OBJECT, properties={"days": gt.Schema(type=gt.Type.INTEGER)}),
    )
    for function in (declared, upper):
        config = gt.GenerateContentConfig(tools=[gt.Tool(function_declarations=[function])])
        got = gem.models.generate_content(model="echo", contents="use the tool", config=config)
        assert got.function_calls is not None
        call = got.function_calls[0]
        assert call.args is not None
        assert (call.name, call.args["days"]) == ("weather", 1)


def test_gemini_structured_reply(gem: genai.Client) -> None:
    class Weather(BaseModel):
        city: str
        days: int

    config = gt.GenerateContentConfig(response_mime_type="application/json", response_schema=Weather)
    assert gem.models.generate_content(model="echo", contents=HELLO, config=config).parsed == Weather(
        city=DIGEST, days=1
    )


def test_gemini_counts_and_embeds(gem: genai.Client, box: Box) -> None:
    assert gem.models.count_tokens(model="echo", contents=HELLO).total_tokens == 5
    got = gem.models.embed_content(
        model="echo", contents=[HELLO, HELLO], config=gt.EmbedContentConfig(output_dimensionality=16)
    )
    assert got.embeddings is not None
    assert [len(e.values or []) for e in got.embeddings] == [16, 16]
    one = json.loads(
        b"".join(box.post("/v1beta/models/echo:embedContent", content={"parts": [{"text": HELLO}]}).pieces)
    )
    assert one["embedding"]["values"] == vector(HELLO)
    assert one["usageMetadata"]["promptTokenCount"] == 5


# Every field that the SDKs' types require, which they do not check themselves


@pytest.mark.parametrize(
    ("path", "doc", "kind"),
    [
        ("/v1/chat/completions", {"messages": TURN}, oai_chat.ChatCompletion),
        ("/v1/chat/completions", {"messages": CALLING, "tools": TOOLS}, oai_chat.ChatCompletion),
        ("/v1/chat/completions", {"messages": TURN, "stream": True}, oai_chat.ChatCompletionChunk),
        ("/v1/chat/completions", {"messages": CALLING, "tools": TOOLS, "stream": True}, oai_chat.ChatCompletionChunk),
        ("/v1/completions", {"prompt": HELLO}, oai_types.Completion),
        ("/v1/responses", {"input": HELLO}, oai_responses.Response),
        ("/v1/responses", {"input": HELLO, "max_output_tokens": 1}, oai_responses.Response),
        ("/v1/responses", {"input": CALLING, "tools": FLAT_TOOLS}, oai_responses.Response),
        ("/v1/responses", {"input": HELLO, "stream": True}, oai_responses.ResponseStreamEvent),
        ("/v1/responses", {"input": CALLING, "tools": FLAT_TOOLS, "stream": True}, oai_responses.ResponseStreamEvent),
        ("/v1/embeddings", {"input": [HELLO]}, oai_types.CreateEmbeddingResponse),
        ("/v1/messages", {"messages": TURN}, anthropic.types.Message),
        ("/v1/messages", {"messages": TURN, "stream": True}, anthropic.types.RawMessageStreamEvent),
        (
            "/v1/messages",
            {"messages": CALLING, "stream": True, "tools": [{"name": "f", "input_schema": LOOK_UP}]},
            anthropic.types.RawMessageStreamEvent,
        ),
        ("/v1beta/models/echo:generateContent", {"contents": {"parts": [{"text": HELLO}]}}, gt.GenerateContentResponse),
    ],
)
def test_every_required_field_is_there(box: Box, path: str, doc: dict[str, Any], kind: Any) -> None:
    got = box.post(path, model="echo", **doc)
    found = documents(got) if got.streams else [json.loads(b"".join(got.pieces))]
    check: TypeAdapter[Any] = TypeAdapter(kind)
    for document in found:
        if document.get("type") != "ping":
            check.validate_python(document)
    assert found


# Files and models


def test_openai_files_come_and_go(oai: openai.OpenAI) -> None:
    content = b"line\r\n--not a boundary\r\n\r\nend"
    made = oai.files.create(file=("a.jsonl", content), purpose="batch")
    assert (made.filename, made.bytes, made.purpose, made.created_at) == ("a.jsonl", len(content), "batch", NOW)
    assert oai.files.retrieve(made.id) == made
    assert [file.id for file in oai.files.list()] == [made.id]
    assert oai.files.content(made.id).read() == content
    assert oai.files.delete(made.id).deleted
    assert list(oai.files.list()) == []


def test_anthropic_files_come_and_go(ant: anthropic.Anthropic, oai: openai.OpenAI) -> None:
    made = ant.beta.files.upload(file=("a.txt", b"abc", "text/plain"))
    assert (made.filename, made.size_bytes, made.mime_type) == ("a.txt", 3, "text/plain")
    assert ant.beta.files.retrieve_metadata(made.id) == made
    assert [file.id for file in ant.beta.files.list()] == [made.id]
    assert list(oai.files.list()) == []
    assert ant.beta.files.download(made.id).read() == b"abc"
    assert ant.beta.files.delete(made.id).type == "file_deleted"


def test_models_are_listed_in_every_family(oai: openai.OpenAI, ant: anthropic.Anthropic, gem: genai.Client) -> None:
    names = [model.id for model in oai.models.list()]
    assert "echo" in names
    assert [model.id for model in ant.models.list()] == names
    assert [model.name for model in gem.models.list()] == [f"models/{name}" for name in names]
    assert oai.models.retrieve("slow").owned_by == "sandbox"
    with pytest.raises(openai.NotFoundError):
        oai.models.retrieve("no-such-thing")


# Which tool is called


def flat(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": LOOK_UP}


@pytest.mark.parametrize(
    ("path", "doc", "names"),
    [
        ("/v1/chat/completions", {"tool_choice": "auto"}, []),
        ("/v1/chat/completions", {"tool_choice": "required"}, ["a"]),
        ("/v1/chat/completions", {"tool_choice": {"type": "function", "function": {"name": "b"}}}, ["b"]),
        ("/v1/chat/completions", {"tool_choice": "none", "messages": CALLING}, []),
        ("/v1/responses", {"tool_choice": "required"}, ["a"]),
        ("/v1/responses", {"tool_choice": {"type": "function", "name": "b"}}, ["b"]),
        ("/v1/responses", {"tool_choice": "none", "input": CALLING}, []),
        ("/v1/messages", {"tool_choice": {"type": "any"}}, ["a"]),
        ("/v1/messages", {"tool_choice": {"type": "tool", "name": "b"}}, ["b"]),
        ("/v1/messages", {"tool_choice": {"type": "none"}, "messages": CALLING}, []),
        ("/v1/models/echo:generateContent", {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, ["a"]),
        (
            "/v1/models/echo:generateContent",
            {"tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["b"]}}},
            ["b"],
        ),
        ("/v1/models/echo:generateContent", {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}, []),
    ],
)
def test_the_chosen_tool_is_called(box: Box, path: str, doc: dict[str, Any], names: list[str]) -> None:
    offers: dict[str, list[Any]] = {
        "/v1/chat/completions": [{"function": flat(name)} for name in "ab"],
        "/v1/responses": [flat(name) for name in "ab"],
        "/v1/messages": [{"name": name, "input_schema": LOOK_UP} for name in "ab"],
        "/v1/models/echo:generateContent": [{"function_declarations": [flat(name) for name in "ab"]}],
    }
    prompt = PROMPTS.get(path, {"contents": [{"parts": [{"text": HELLO if names else "use the tool"}]}]})
    text = b"".join(box.post(path, **{**prompt, "tools": offers[path], **doc}).pieces).decode()
    output = text.partition('"parallel_tool_calls"')[0]
    called = re.findall(r'"name":"(.)"', output)
    assert called == names


# What a model's name asks for


@pytest.mark.parametrize(("status", "kind"), [(429, openai.RateLimitError), (500, openai.InternalServerError)])
def test_error_models(oai: openai.OpenAI, ant: anthropic.Anthropic, gem: genai.Client, status: int, kind: Any) -> None:
    model = f"sandbox/error-{status}"
    with pytest.raises(kind):
        oai.chat.completions.create(model=model, messages=[{"role": "user", "content": HELLO}])
    with pytest.raises(anthropic.APIStatusError) as caught:
        ant.messages.create(model=model, max_tokens=1, messages=[{"role": "user", "content": HELLO}])
    assert caught.value.status_code == status
    assert caught.value.request_id is not None
    with pytest.raises(genai.errors.APIError) as refused:
        gem.models.generate_content(model=f"error-{status}", contents=HELLO)
    assert refused.value.code == status


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize("stream", [False, True])
def test_usage_models(box: Box, path: str, stream: bool) -> None:
    more = {"stream": stream, "stream_options": {"include_usage": True}, **PROMPTS[path]}
    none, exact = (b"".join(box.post(path, model=m, **more).pieces) for m in ("no-usage", "sandbox/usage-123456-789"))
    assert b"tokens" not in none.replace(b'output_tokens":null', b"").replace(b"max_output_tokens", b"")
    assert b"123456" in exact
    assert b"789" in exact


@pytest.mark.parametrize("path", PROMPTS)
def test_the_long_model_and_the_same_reply_twice(box: Box, path: str) -> None:
    first, again = (b"".join(box.post(path, model="long", **PROMPTS[path]).pieces) for _ in range(2))
    assert b"2000" in first
    fox, fox_again = (text[text.index(b"the quick") :][:5000] for text in (first, again))
    assert fox == fox_again


def test_slow_hanging_and_truncated_models_say_so() -> None:
    box = Box()
    slow, hang, torn = (
        box.post("/v1/chat/completions", model=m, messages=TURN).behaviour for m in ("slow", "hang", "truncate")
    )
    assert (slow.latency_ms, slow.interval_ms, hang.hang, torn.truncate) == (1500, 100, True, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"{}", 400),
        ("POST", "/v1/chat/completions", b'{"messages":1}', 400),
        ("POST", "/v1/chat/completions", b'{"messages":"\xff"}', 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/chat/completions", b'{"messages":[]}', 200),
        ("POST", "/v1/chat/completions", b'{"messages":[1,null],"tools":[1],"n":-1,"max_tokens":"x"}', 200),
        ("POST", "/v1/messages", b'{"messages":[{}],"tools":{},"system":7}', 200),
        ("POST", "/v1/responses", b'{"input":[null],"tools":[{}],"text":1}', 200),
        ("POST", "/v1beta/models/x:generateContent", b'{"contents":{},"tools":[null],"generationConfig":[]}', 200),
        ("POST", "/v1beta/models/x:predict", b"{}", 404),
        ("GET", "/v1/chat/completions", b"", 404),
        ("GET", "/v1/files/none", b"", 404),
        ("GET", "/v1/responses/none", b"", 404),
        ("POST", "/v1/files", b"", 400),
        ("GET", "/", b"", 404),
    ],
)
def test_wrong_requests_are_answered(box: Box, method: str, path: str, body: bytes, status: int) -> None:
    got = box.ask(method, path, body)
    assert got.status == status
    assert isinstance(msgspec.json.decode(b"".join(got.pieces)), dict)


# Bounds


def test_the_shelf_forgets_the_oldest() -> None:
    shelf = Shelf(objects=2, size=100)
    for name in ("a", "b", "c"):
        shelf.put("file", name, Item({"id": name}, content=b"12345"))
    assert [shelf.get("file", name) is not None for name in ("a", "b", "c")] == [False, True, True]
    shelf.put("file", "d", Item({"id": "d"}, content=b"x" * 97))
    assert shelf.every("file") == [{"id": "d"}]
    assert (shelf.remove("file", "d"), shelf.remove("file", "d")) == (True, False)


def test_schemas_without_end_are_cut_off() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefgh"}}
    assert len(json.dumps(sample(node, "w"))) < 100_000
    assert sample({"$ref": "#/$defs/x", "$defs": {"x": {"type": ["null", "string"]}}}, "w") is None
    assert sample({"type": "array", "minItems": 1, "items": {"anyOf": [{"const": 5}]}}, "w") == [5]


def test_choices_are_bounded(box: Box) -> None:
    got = box.post("/v1/chat/completions", messages=TURN, n=10**9)
    assert len(json.loads(got.pieces[0])["choices"]) == 128


# What real clients sent


def recorded_requests() -> Iterator[tuple[str, str, bytes]]:
    folder = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[3] / "../shared/corpora")) / "traffic"
    files = [folder / f"{name}.jsonl.gz" for name in ("openai", "anthropic", "google")]
    if missing := [file for file in files if not file.exists()]:
        pytest.skip(f"recorded traffic is not at {missing[0]}")
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in itertools.islice(lines, 0, None, 5):
                record = json.loads(line)
                if record["request"]["body_kind"] == "json":
                    where = record["endpoint"]
                    yield where["method"], where["path"], json.dumps(record["request"]["body"]).encode()


def test_recorded_requests_are_answered_with_usage(box: Box) -> None:
    answered = 0
    for method, target, body in recorded_requests():
        got = box.ask(method, target, body)
        text = b"".join(got.pieces)
        if got.status == 200 and method == "POST":
            answered += 1
            assert got.streams or b'"usage' in text or b'"totalTokens"' in text or b'"input_tokens"' in text
        else:
            assert got.status in (200, 400, 404)
            assert isinstance(json.loads(text), dict)
    assert answered > 400
