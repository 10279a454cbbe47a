"""The official SDKs with guarded clients, in the process that calls: right answers, right rows, the caller's own key.

The provider on loopback answers as the sandbox does: it echoes the prompt in four words and bills a token for a word
and for four bytes of prompt, so every number is known beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types as gt

from llmguard import refusal
from tests.support.gateway import Gateway, gateway
from tests.support.inside import GuardedSdks, configuration, guarded_sdks, inside, sandbox
from tests.support.sdks import Sdks, sdks
from tests.support.upstream import upstream

MODEL = "echo"
HELLO = [{"role": "user", "content": "Hello"}]
CALLING = [{"role": "user", "content": "Please use the tool."}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
PROMPT, REPLY = 2, 4
"""Tokens of the prompt and of its echo."""

Sdk = GuardedSdks | Sdks
Traffic = Callable[[Sdk], Any]


def chat(sdk: Sdk) -> Any:
    return sdk.done(sdk.oai.chat.completions.create(model=MODEL, messages=HELLO)).choices[0].message.content


def chat_streamed(sdk: Sdk) -> Any:
    chunks = sdk.each(sdk.oai.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert all(chunk.choices for chunk in chunks)  # the usage that only the guard has asked for is taken out
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def chat_with_usage(sdk: Sdk) -> Any:
    options = {"stream_options": {"include_usage": True}}
    chunks = sdk.each(sdk.oai.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **options))
    return [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]


def chat_tools(sdk: Sdk) -> Any:
    tools = [{"type": "function", "function": FUNCTION}]
    got = sdk.done(sdk.oai.chat.completions.create(model=MODEL, messages=CALLING, tools=tools))
    return [tool.function.name for tool in got.choices[0].message.tool_calls]


def chat_tools_streamed(sdk: Sdk) -> Any:
    tools = [{"type": "function", "function": FUNCTION}]
    chunks = sdk.each(sdk.oai.chat.completions.create(model=MODEL, messages=CALLING, tools=tools, stream=True))
    calls = [tool for chunk in chunks for tool in chunk.choices[0].delta.tool_calls or ()]
    return [tool.function.name for tool in calls if tool.function.name]


def completions(sdk: Sdk) -> Any:
    return sdk.done(sdk.oai.completions.create(model=MODEL, prompt="Hello")).choices[0].text


def embeddings(sdk: Sdk) -> Any:
    got = sdk.done(sdk.oai.embeddings.create(model=MODEL, input=["Hello", "Hello"], dimensions=16))
    return [len(one.embedding) for one in got.data]


def responses(sdk: Sdk) -> Any:
    return sdk.done(sdk.oai.responses.create(model=MODEL, input="Hello")).output_text


def responses_streamed(sdk: Sdk) -> Any:
    events = sdk.each(sdk.oai.responses.create(model=MODEL, input="Hello", stream=True))
    return [event.response.usage.output_tokens for event in events if event.type == "response.completed"]


def messages(sdk: Sdk) -> Any:
    return sdk.done(sdk.ant.messages.create(model=MODEL, max_tokens=64, messages=HELLO)).content[0].text


def messages_streamed(sdk: Sdk) -> Any:
    events = sdk.each(sdk.ant.messages.create(model=MODEL, max_tokens=64, messages=HELLO, stream=True))
    return events[-1].type, [e.usage.output_tokens for e in events if e.type == "message_delta"]


def messages_tools(sdk: Sdk) -> Any:
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    got = sdk.done(sdk.ant.messages.create(model=MODEL, max_tokens=64, messages=CALLING, tools=tools))
    return [block.name for block in got.content]


def counted_tokens(sdk: Sdk) -> Any:
    return sdk.done(sdk.ant.messages.count_tokens(model=MODEL, messages=HELLO)).input_tokens


def content(sdk: Sdk) -> Any:
    return sdk.done(sdk.gem.models.generate_content(model=MODEL, contents="Hello")).text


def content_streamed(sdk: Sdk) -> Any:
    return "".join(
        chunk.text for chunk in sdk.each(sdk.gem.models.generate_content_stream(model=MODEL, contents="Hello"))
    )


def content_tools(sdk: Sdk) -> Any:
    declared = gt.FunctionDeclaration(name="weather", parameters_json_schema=SCHEMA)
    config = gt.GenerateContentConfig(tools=[gt.Tool(function_declarations=[declared])])
    got = sdk.done(sdk.gem.models.generate_content(model=MODEL, contents="Please use the tool.", config=config))
    return [call.name for call in got.function_calls]


def embedded_content(sdk: Sdk) -> Any:
    config = gt.EmbedContentConfig(output_dimensionality=16)
    got = sdk.done(sdk.gem.models.embed_content(model=MODEL, contents=["Hello", "Hello"], config=config))
    return [len(one.values) for one in got.embeddings]


TRAFFIC: list[Traffic] = [
    chat,
    chat_streamed,
    chat_with_usage,
    chat_tools,
    chat_tools_streamed,
    completions,
    embeddings,
    responses,
    responses_streamed,
    messages,
    messages_streamed,
    messages_tools,
    counted_tokens,
    content,
    content_streamed,
    content_tools,
    embedded_content,
]
KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
OWN = ("event_id", "attempt_id", "created_at", "latency_ms", "ttft_ms", "principal", "key_id")
"""Columns in which a call inside and one through the gateway differ."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway before the same provider, to compare with."""
    home = tmp_path_factory.mktemp("gateway")
    with upstream() as provider:
        provider.reply(sandbox())
        config = configuration(home, provider.origin)
        for one in config["providers"].values():
            one["default"] = True
        with gateway(home, {name: config[name] for name in ("providers", "prices")}) as running:
            yield running


@pytest.fixture(scope="module")
def key(served: Gateway) -> str:
    return served.key()


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("module", ["httpx2", "httpx"])
def test_every_call_of_every_sdk_is_answered_and_recorded_as_by_the_gateway(
    tmp_path: Path, served: Gateway, key: str, module: str, sync: bool
) -> None:
    known = len(served.rows())
    with sdks(served.url, key, sync=sync) as outside:
        expected = [call(outside) for call in TRAFFIC]
    with inside(tmp_path) as world, guarded_sdks(world, sync=sync, module=module) as sdk:
        assert [call(sdk) for call in TRAFFIC] == expected
        rows = world.rows(len(TRAFFIC))
        assert world.idle()
        keys = {seen.header(name) for seen in world.provider.requests for name in KEY_HEADERS} - {None}
        assert keys == {"Bearer sk-own", "own"}
        assert {seen.header("accept-encoding") for seen in world.provider.requests} == {"identity"}
    theirs = served.wait_for_rows(known + len(TRAFFIC))[known:]
    for mine, other in zip(rows, theirs, strict=True):
        assert _shared(mine) == _shared(other)
        assert mine["principal"] is mine["key_id"] is None
    assert [row["cost_nano"] for row in rows[:3]] == [(PROMPT + REPLY) * 1_000] * 3
    assert {row["usage_source"] for row in rows if row["cost_nano"]} == {"provider"}


def _shared(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in OWN}


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (chat, openai.RateLimitError),
        (chat_streamed, openai.RateLimitError),
        (messages, anthropic.RateLimitError),
        (messages_streamed, anthropic.RateLimitError),
        (content, genai.errors.ClientError),
        (content_streamed, genai.errors.ClientError),
    ],
)
def test_a_spent_budget_is_heard_once_at_once_and_reaches_no_provider(
    tmp_path: Path, ask: Traffic, error: type[Exception], sync: bool
) -> None:
    budget = {"name": "a-cent-a-day", "scope": {"team": "*"}, "limit": "$0.01", "window": "day"}
    with inside(tmp_path, budgets=[budget]) as world, guarded_sdks(world, sync=sync) as sdk:
        sdk.done(sdk.oai.chat.completions.create(model="usage-9000-1000", messages=HELLO))
        world.rows(1, cost_nano=10_000_000)
        calls, since = len(world.provider.requests), time.monotonic()
        with pytest.raises(error) as caught:
            ask(sdk)
        assert time.monotonic() - since < 1
        assert len(world.provider.requests) == calls == 1
        said = refusal(caught.value)
        assert said is not None
        assert (said.code, said.rule, said.scope) == ("budget_exceeded", "a-cent-a-day", {"team": "search"})
        assert (said.status, said.should_retry, said.limit, said.unit) == (429, False, "0.01", "usd")
        assert [amount for _, amount in world.guard.process().tally.take().items()] == [1]
        world.rows(1)
