"""A fake provider serves real SDKs: what it is told to say, as it is told to say it, and it keeps what it has heard."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import anthropic
import httpx2
import openai
import pytest
from google import genai

from llmguard.testing import FakeProvider, Received, Reply


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.openai_url, api_key="sk-fake", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, text: str = "hi", model: str = "gpt-4o") -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])


def test_openai_whole_and_streamed(provider: FakeProvider, client: openai.OpenAI) -> None:
    provider.reply("Hello, wörld!", usage=(12, 3))
    reply = ask(client)
    assert reply.choices[0].message.content == "Hello, wörld!"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (12, 3)  # type: ignore[union-attr]
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert [c.choices[0].delta.content for c in chunks if c.choices] == ["", "Hello,", " wörld!", None]
    assert chunks[-1].usage.total_tokens == 15  # type: ignore[union-attr]
    answer = client.responses.create(model="gpt-4o", input="hi")
    assert answer.output_text == "Hello, wörld!"


def test_anthropic_whole_and_streamed(provider: FakeProvider) -> None:
    provider.reply("Hello, world!", usage=(12, 3))
    words = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic(base_url=provider.url, api_key="fake", max_retries=0) as client:
        reply = client.messages.create(**words)  # type: ignore[call-overload]
        assert (reply.content[0].text, reply.usage.input_tokens, reply.usage.output_tokens) == ("Hello, world!", 12, 3)
        with client.messages.stream(**words) as stream:  # type: ignore[arg-type]
            assert list(stream.text_stream) == ["Hello,", " world!"]
            assert stream.get_final_message().usage.output_tokens == 3
    assert provider.requests[0].headers["anthropic-version"]


def test_gemini_whole_and_streamed(provider: FakeProvider) -> None:
    provider.reply("Hello, world!", usage=(12, 3))
    client = genai.Client(api_key="fake", http_options=genai.types.HttpOptions(base_url=provider.url))
    reply = client.models.generate_content(model="gemini-2.5-flash", contents="hi")
    assert (reply.text, reply.usage_metadata.prompt_token_count) == ("Hello, world!", 12)  # type: ignore[union-attr]
    parts = client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
    assert "".join(part.text or "" for part in parts) == "Hello, world!"
    assert provider.requests[0].model == "gemini-2.5-flash"
    client.close()


def test_async_clients(provider: FakeProvider) -> None:
    async def work() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="fake") as client:
            calls = [
                client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": str(n)}])
                for n in range(8)
            ]
            return [reply.choices[0].message.content for reply in await asyncio.gather(*calls)]

    provider.reply(lambda request: Reply(text=request.json()["messages"][0]["content"] * 2))
    assert asyncio.run(work()) == ["00", "11", "22", "33", "44", "55", "66", "77"]


def test_queued_replies_come_first_and_once(provider: FakeProvider, client: openai.OpenAI) -> None:
    provider.reply("always")
    provider.queue("first")
    provider.queue(Reply("second"))
    said = [ask(client).choices[0].message.content for _ in range(4)]
    assert said == ["first", "second", "always", "always"]


def test_without_a_word_it_echoes_and_models_names_count(provider: FakeProvider, client: openai.OpenAI) -> None:
    assert str(ask(client, "ping").choices[0].message.content).endswith("ping")
    usage = ask(client, model="usage-100-50").usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (100, 50)


def test_requests_are_kept(provider: FakeProvider, client: openai.OpenAI) -> None:
    ask(client, "ping")
    list(client.models.list())
    first, second = provider.requests
    assert (first.method, first.path, first.model) == ("POST", "/v1/chat/completions", "gpt-4o")
    assert first.headers["authorization"] == "Bearer sk-fake"
    assert first.json()["messages"] == [{"role": "user", "content": "ping"}]
    assert (second.method, second.path, second.model) == ("GET", "/v1/models", None)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
def test_errors(provider: FakeProvider, client: openai.OpenAI, status: int, error: type[Exception]) -> None:
    provider.queue(status=status, headers={"x-why": "test"})
    with pytest.raises(error) as caught:
        ask(client)
    assert caught.value.response.headers["x-why"] == "test"  # type: ignore[attr-defined]
    assert ask(client).choices


def test_a_body_of_ones_own(provider: FakeProvider, client: openai.OpenAI) -> None:
    provider.queue(body={"id": "x", "object": "list", "data": []})
    assert list(client.models.list()) == []
    provider.queue(status=418, body="no coffee")
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert (caught.value.status_code, caught.value.response.text) == (418, "no coffee")


def test_faults(provider: FakeProvider, client: openai.OpenAI) -> None:
    for fault in ("cut", "reset"):
        provider.queue("some words to break off", fault=fault)
        with pytest.raises(openai.APIConnectionError):
            ask(client)
    provider.queue("some words to break off", fault="cut")
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    provider.queue(fault="hang")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).chat.completions.create(model="m", messages=[])
    assert ask(client).choices


def test_latency_and_interval(provider: FakeProvider, client: openai.OpenAI) -> None:
    provider.queue("one two three", latency=0.1, interval=0.05)
    begun = time.monotonic()
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    head = time.monotonic() - begun
    assert len(list(stream)) == 5
    assert head >= 0.1
    assert time.monotonic() - begun >= 0.1 + 5 * 0.05


def test_chunked_request_bodies(provider: FakeProvider) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b'{"model": "m", ', b'"messages": []}')

    with httpx2.Client() as client:
        assert client.post(f"{provider.openai_url}/chat/completions", content=pieces()).status_code == 200
    assert provider.requests[0].json() == {"model": "m", "messages": []}


def test_stopping_ends_what_hangs() -> None:
    threads = threading.active_count()
    provider = FakeProvider()
    provider.start()
    provider.reply(fault="hang")
    port = int(provider.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while not provider.requests:
            time.sleep(0.01)
        provider.stop()
        assert caller.recv(100) == b""
    assert threading.active_count() == threads
    provider.stop()
    with pytest.raises(RuntimeError, match="start the provider first"):
        _ = provider.url


def test_a_mistake_in_a_function_for_replies_is_not_lost() -> None:
    provider = FakeProvider()
    provider.start()
    provider.reply(lambda request: Reply(request.json()["missing"]))
    with openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            ask(client)
        with pytest.raises(KeyError, match="missing"):
            provider.stop()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="there are hang, cut, reset"):
        Reply(fault="crash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 200 to 599"):
        Reply(status=99)
    assert Received("POST", "/v1/files", "", {}, b"--x").model is None
