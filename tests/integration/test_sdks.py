"""The official SDKs through a running gateway, with only base URL and key changed: right answers, right rows.

The sandbox echoes the prompt in four words and bills a token for a word and for four bytes of prompt, so every number
is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types as gt

from tests.support.gateway import Gateway, gateway
from tests.support.sdks import Sdks, sdks

CONFIG = {
    "providers": {"sandbox": {"dialect": "sandbox", "passthrough": "$0.01"}},
    "models": {"smart": "sandbox/echo", "wise": "sandbox/slow"},
}
MODEL = "sandbox/echo"
HELLO = [{"role": "user", "content": "Hello"}]
CALLING = [{"role": "user", "content": "Please use the tool."}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
CONTENTS = "Hello"
PROMPT, REPLY = 2, 4
"""Tokens of the prompt and of its echo."""


class Rows:
    """The ledger as a test sees it: one more row after every call."""

    def __init__(self, served: Gateway) -> None:
        self._served = served
        self._known = len(served.rows())

    def none(self) -> None:
        assert len(self._served.rows()) == self._known

    def last(self, dialect: str, *, stream: bool = False) -> dict[str, Any]:
        """The row of the latest call, which was answered and belongs to the key's team."""
        self._known += 1
        rows = self._served.wait_for_rows(self._known)
        assert len(rows) == self._known
        row = rows[-1]
        assert (row["kind"], row["status"], row["dialect"], row["stream"]) == ("POST", 200, dialect, stream)
        assert (row["team"], row["env"], row["feature"]) == ("search", "prod", "chat")
        assert (row["provider"], row["model_requested"]) == ("sandbox", MODEL)
        return row

    def charged(self, dialect: str, tokens: tuple[int, int], *, stream: bool = False) -> None:
        """The latest call used these tokens, at $1 a million, by the provider's own account."""
        row = self.last(dialect, stream=stream)
        assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (*tokens, "provider")
        assert row["cost_nano"] == sum(tokens) * 1_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("sdks"), CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def key(served: Gateway) -> str:
    return served.key()


@pytest.fixture(scope="module", params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, served: Gateway, key: str) -> Iterator[Sdks]:
    with sdks(served.url, key, sync=request.param == "sync") as clients:
        yield clients


@pytest.fixture
def rows(served: Gateway) -> Rows:
    return Rows(served)


def said(text: str | None) -> None:
    """The sandbox's answer to the prompt, whole."""
    assert text is not None
    assert text.startswith("Sandbox reply ")
    assert text.endswith(": Hello")
    assert len(text.split()) == REPLY


# OpenAI


def test_openai_chat(sdk: Sdks, rows: Rows) -> None:
    got = sdk.done(sdk.oai.chat.completions.create(model=MODEL, messages=HELLO))
    said(got.choices[0].message.content)
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (PROMPT, REPLY)
    rows.charged("openai_chat", (PROMPT, REPLY))


@pytest.mark.parametrize("asked", [False, True])
def test_openai_chat_streamed(sdk: Sdks, rows: Rows, asked: bool) -> None:
    """The usage is read in either case, and shown only to the caller who asked for it."""
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = sdk.each(sdk.oai.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **options))
    said("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices))
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == [(PROMPT, REPLY)] * asked
    assert all(chunk.choices for chunk in chunks) != asked
    rows.charged("openai_chat", (PROMPT, REPLY), stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_tools(sdk: Sdks, rows: Rows, stream: bool) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    call = sdk.oai.chat.completions.create(model=MODEL, messages=CALLING, tools=tools, stream=stream, **options)
    if stream:
        chunks = sdk.each(call)
        pieces = [tool for chunk in chunks for choice in chunk.choices for tool in choice.delta.tool_calls or ()]
        name, usage = pieces[0].function.name, chunks[-1].usage
        arguments = "".join(piece.function.arguments or "" for piece in pieces)
    else:
        got = sdk.done(call)
        (tool,) = got.choices[0].message.tool_calls
        name, arguments, usage = tool.function.name, tool.function.arguments, got.usage
    assert (name, arguments[:9]) == ("weather", '{"city":"')
    rows.charged("openai_chat", (usage.prompt_tokens, usage.completion_tokens), stream=stream)


def test_openai_responses(sdk: Sdks, rows: Rows) -> None:
    got = sdk.done(sdk.oai.responses.create(model=MODEL, input="Hello"))
    said(got.output_text)
    assert (got.usage.input_tokens, got.usage.output_tokens) == (PROMPT, REPLY)
    rows.charged("openai_responses", (PROMPT, REPLY))


def test_openai_responses_streamed(sdk: Sdks, rows: Rows) -> None:
    events = sdk.each(sdk.oai.responses.create(model=MODEL, input="Hello", stream=True))
    said("".join(event.delta for event in events if event.type == "response.output_text.delta"))
    assert events[-1].type == "response.completed"
    usage = events[-1].response.usage
    assert (usage.input_tokens, usage.output_tokens) == (PROMPT, REPLY)
    rows.charged("openai_responses", (PROMPT, REPLY), stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_responses_tools(sdk: Sdks, rows: Rows, stream: bool) -> None:
    tools = [{"type": "function", "strict": False, **FUNCTION}]
    call = sdk.oai.responses.create(model=MODEL, input=CALLING, tools=tools, stream=stream)
    got = sdk.each(call)[-1].response if stream else sdk.done(call)
    (tool,) = got.output
    assert (tool.type, tool.name) == ("function_call", "weather")
    rows.charged("openai_responses", (got.usage.input_tokens, got.usage.output_tokens), stream=stream)


def test_openai_embeddings(sdk: Sdks, rows: Rows) -> None:
    got = sdk.done(sdk.oai.embeddings.create(model=MODEL, input=["Hello", "Hello"], dimensions=16))
    assert [len(one.embedding) for one in got.data] == [16, 16]
    assert got.usage.prompt_tokens == 2 * PROMPT
    rows.charged("openai_embeddings", (2 * PROMPT, 0))


@pytest.mark.parametrize("stream", [False, True])
def test_openai_completions(sdk: Sdks, rows: Rows, stream: bool) -> None:
    call = sdk.oai.completions.create(model=MODEL, prompt="Hello", stream=stream)
    parts = sdk.each(call) if stream else [sdk.done(call)]
    said("".join(choice.text for part in parts for choice in part.choices))
    rows.charged("openai_chat", (PROMPT, REPLY), stream=stream)


# Anthropic


def test_anthropic_messages(sdk: Sdks, rows: Rows) -> None:
    got = sdk.done(sdk.ant.messages.create(model=MODEL, max_tokens=64, messages=HELLO))
    said(got.content[0].text)
    assert (got.usage.input_tokens, got.usage.output_tokens) == (PROMPT, REPLY)
    rows.charged("anthropic_messages", (PROMPT, REPLY))


def test_anthropic_messages_streamed(sdk: Sdks, rows: Rows) -> None:
    events = sdk.each(sdk.ant.messages.create(model=MODEL, max_tokens=64, messages=HELLO, stream=True))
    said("".join(event.delta.text for event in events if event.type == "content_block_delta"))
    assert events[-1].type == "message_stop"
    assert [event.usage.output_tokens for event in events if event.type == "message_delta"] == [REPLY]
    rows.charged("anthropic_messages", (PROMPT, REPLY), stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_tools(sdk: Sdks, rows: Rows, stream: bool) -> None:
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    call = sdk.ant.messages.create(model=MODEL, max_tokens=64, messages=CALLING, tools=tools, stream=stream)
    if stream:
        events = sdk.each(call)
        (block,) = [event.content_block for event in events if event.type == "content_block_start"]
        prompt = events[0].message.usage.input_tokens
        (reply,) = [event.usage.output_tokens for event in events if event.type == "message_delta"]
    else:
        got = sdk.done(call)
        (block,) = got.content
        prompt, reply = got.usage.input_tokens, got.usage.output_tokens
    assert (block.type, block.name) == ("tool_use", "weather")
    rows.charged("anthropic_messages", (prompt, reply), stream=stream)


def test_anthropic_counts_tokens_for_nothing(sdk: Sdks, rows: Rows) -> None:
    assert sdk.done(sdk.ant.messages.count_tokens(model=MODEL, messages=HELLO)).input_tokens == PROMPT
    assert rows.last("anthropic_messages")["cost_nano"] == 0


# Google


def test_gemini_content(sdk: Sdks, rows: Rows) -> None:
    got = sdk.done(sdk.gem.models.generate_content(model=MODEL, contents=CONTENTS))
    said(got.text)
    usage = got.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count) == (PROMPT, REPLY)
    rows.charged("gemini_generate", (PROMPT, REPLY))


def test_gemini_content_streamed(sdk: Sdks, rows: Rows) -> None:
    chunks = sdk.each(sdk.gem.models.generate_content_stream(model=MODEL, contents=CONTENTS))
    said("".join(chunk.text for chunk in chunks))
    assert chunks[-1].usage_metadata.candidates_token_count == REPLY
    rows.charged("gemini_generate", (PROMPT, REPLY), stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_gemini_tools(sdk: Sdks, rows: Rows, stream: bool) -> None:
    declared = gt.FunctionDeclaration(name="weather", parameters_json_schema=SCHEMA)
    config = gt.GenerateContentConfig(tools=[gt.Tool(function_declarations=[declared])])
    models, asked = sdk.gem.models, {"model": MODEL, "contents": "Please use the tool.", "config": config}
    if stream:
        got = sdk.each(models.generate_content_stream(**asked))[-1]
    else:
        got = sdk.done(models.generate_content(**asked))
    assert [call.name for call in got.function_calls] == ["weather"]
    usage = got.usage_metadata
    rows.charged("gemini_generate", (usage.prompt_token_count, usage.candidates_token_count), stream=stream)


def test_gemini_embeddings(sdk: Sdks, rows: Rows) -> None:
    config = gt.EmbedContentConfig(output_dimensionality=16)
    got = sdk.done(sdk.gem.models.embed_content(model=MODEL, contents=["Hello", "Hello"], config=config))
    assert [len(one.values) for one in got.embeddings] == [16, 16]
    rows.charged("gemini_embed", (2 * PROMPT, 0))


def test_gemini_counts_tokens_for_nothing(sdk: Sdks, rows: Rows) -> None:
    assert sdk.done(sdk.gem.models.count_tokens(model=MODEL, contents=CONTENTS)).total_tokens == PROMPT
    assert rows.last("gemini_generate")["cost_nano"] == 0


# All of them


def test_every_sdk_lists_the_names_that_callers_may_use(sdk: Sdks, rows: Rows) -> None:
    assert [model.id for model in sdk.each(sdk.oai.models.list())] == ["smart", "wise"]
    assert [model.id for model in sdk.each(sdk.ant.models.list())] == ["smart", "wise"]
    assert [model.name for model in sdk.each(sdk.gem.models.list())] == ["models/smart", "models/wise"]
    rows.none()


def test_an_alias_is_answered_by_its_target_in_every_dialect(sdk: Sdks, served: Gateway) -> None:
    before = len(served.rows())
    said(sdk.done(sdk.oai.chat.completions.create(model="smart", messages=HELLO)).choices[0].message.content)
    said(sdk.done(sdk.ant.messages.create(model="smart", max_tokens=64, messages=HELLO)).content[0].text)
    said(sdk.done(sdk.gem.models.generate_content(model="smart", contents=CONTENTS)).text)
    rows = served.wait_for_rows(before + 3)[before:]
    assert [(row["model_requested"], row["model_served"], row["cost_nano"]) for row in rows] == [
        ("smart", "echo", (PROMPT + REPLY) * 1_000)
    ] * 3


def test_an_unknown_key_is_refused_in_every_sdks_own_words(served: Gateway, rows: Rows) -> None:
    with sdks(served.url, "lg_prod_none_0000") as stranger:
        with pytest.raises(openai.AuthenticationError) as oai:
            stranger.oai.chat.completions.create(model=MODEL, messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError):
            stranger.ant.messages.create(model=MODEL, max_tokens=64, messages=HELLO)
        with pytest.raises(genai.errors.ClientError) as gem:
            stranger.gem.models.generate_content(model=MODEL, contents=CONTENTS)
    assert oai.value.code == "invalid_api_key"
    assert (gem.value.code, gem.value.status) == (401, "UNAUTHENTICATED")
    rows.none()
