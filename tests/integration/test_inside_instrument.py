"""`instrument()`: clients made before and after, of both libraries and every SDK, without a word to any of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from google import genai

import llmguard
from tests.support.inside import Inside, guarded_sdks, inside
from tests.support.sdks import sdks
from tests.support.upstream import upstream

HELLO = [{"role": "user", "content": "Hello"}]
BODY = {"model": "echo", "messages": HELLO}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Inside]:
    with inside(tmp_path) as running:
        try:
            yield running
        finally:
            llmguard.uninstrument()


def test_clients_made_before_and_after_are_guarded_and_charged_to_the_context(world: Inside) -> None:
    with sdks(world.provider.origin, "sk-own") as before:
        llmguard.instrument(world.guard)
        llmguard.instrument(world.guard)
        with (
            llmguard.context(team="search", env="prod", feature="chat"),
            sdks(world.provider.origin, "sk-own") as after,
        ):
            for sdk in (before, after):
                sdk.oai.chat.completions.create(model="echo", messages=HELLO)
                sdk.oai.with_options(max_retries=0).chat.completions.create(model="echo", messages=HELLO)
                sdk.ant.messages.create(model="echo", max_tokens=9, messages=HELLO)
                sdk.gem.models.generate_content(model="echo", contents="Hello")
        before.oai.chat.completions.create(model="echo", messages=HELLO)
        rows = world.rows(9)
        llmguard.uninstrument()
        before.oai.chat.completions.create(model="echo", messages=HELLO)
    assert [row["dialect"] for row in rows[:4]] == ["openai_chat"] * 2 + ["anthropic_messages", "gemini_generate"]
    assert [(row["team"], row["feature"]) for row in rows] == [("search", "chat")] * 8 + [("unattributed",) * 2]
    assert len(world.provider.requests) == 10
    world.rows(9)


def test_asynchronous_clients_are_guarded_too_also_where_google_goes_by_aiohttp(world: Inside) -> None:
    pytest.importorskip("aiohttp")
    with sdks(world.provider.origin, "sk-own", sync=False) as before:
        report = llmguard.instrument(world.guard)
        with sdks(world.provider.origin, "sk-own", sync=False) as after:
            for sdk in (before, after):
                sdk.done(sdk.oai.chat.completions.create(model="echo", messages=HELLO))
                sdk.done(sdk.gem.models.generate_content(model="echo", contents="Hello"))
                assert sdk.each(sdk.gem.models.generate_content_stream(model="echo", contents="Hello"))
            rows = world.rows(6)
            llmguard.uninstrument()
            for sdk in (before, after):
                sdk.done(sdk.gem.models.generate_content(model="echo", contents="Hello"))  # by aiohttp again
    assert "google-genai: asynchronous calls, led from aiohttp to httpx" in report.covered
    assert [row["dialect"] for row in rows] == ["openai_chat", "gemini_generate", "gemini_generate"] * 2
    assert len(world.provider.requests) == 8
    world.rows(6)


@pytest.mark.parametrize("module", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_plain_clients_and_foreign_transports_of_both_libraries_are_guarded(world: Inside, module: Any) -> None:
    class Counting(module.HTTPTransport):
        sent = 0

        def handle_request(self, request: Any) -> Any:
            Counting.sent += 1
            return super().handle_request(request)

    url = f"{world.provider.origin}/v1/chat/completions"
    with module.Client(transport=Counting()) as client:
        llmguard.instrument(world.guard)
        assert client.post(url, json=BODY).headers["x-llmguard-target"] == "local/echo"
        with client.stream("POST", url, json=BODY | {"stream": True}) as reply:
            assert list(reply.iter_lines())[-2:] == ["data: [DONE]", ""]
        assert module.post(url, json=BODY).status_code == 200
    assert Counting.sent == 2
    assert len(world.rows(3)) == len(world.provider.requests)


def test_an_instrumented_process_counts_a_guarded_client_once_and_for_whom_it_says(world: Inside) -> None:
    llmguard.instrument(world.guard)
    with guarded_sdks(world) as sdk:
        sdk.oai.chat.completions.create(model="echo", messages=HELLO)
        with llmguard.context(feature="digest"):
            sdk.oai.chat.completions.create(model="echo", messages=HELLO)
    assert [(row["team"], row["feature"]) for row in world.rows(2)] == [("search", "chat"), ("search", "digest")]


def test_the_context_goes_along_into_threads_pools_and_tasks(world: Inside) -> None:
    llmguard.instrument(world.guard)
    with sdks(world.provider.origin, "sk-own") as sdk:
        ask = lambda: sdk.oai.chat.completions.create(model="echo", messages=HELLO)  # noqa: E731
        with llmguard.context(team="search", feature="threads"):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(ask).result()

        async def main() -> None:
            with llmguard.context(team="search", feature="threads"):
                await asyncio.gather(asyncio.to_thread(ask), asyncio.to_thread(ask))

        asyncio.run(main())
    assert {(row["team"], row["feature"]) for row in world.rows(4)} == {("search", "threads")}


def test_one_asynchronous_client_serves_one_loop_after_the_other(world: Inside) -> None:
    llmguard.instrument(world.guard)

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{world.provider.origin}/v1", api_key="sk-own") as client:
            await client.chat.completions.create(model="echo", messages=HELLO)  # type: ignore[arg-type]

    for _ in range(3):
        asyncio.run(ask())
    world.rows(3)


def test_the_report_says_what_is_covered_and_what_was_seen_to_go_elsewhere(world: Inside) -> None:
    report = llmguard.instrument(world.guard)
    assert "httpx2: Client and AsyncClient" in report.covered
    assert "https://api.anthropic.com:443 (anthropic)" in report.covered
    with upstream() as other:
        httpx2.post(f"{other.origin}/v1/chat/completions", json=BODY)
        httpx2.post(f"{other.origin}/v1/other", json=BODY)
        assert [words for words in report.uncovered if "127.0.0.1" in words] == [
            f"{other.origin}: add it to providers in llmguard.yaml"
        ]


def test_a_client_that_was_made_while_instrumented_works_on_afterwards(world: Inside) -> None:
    pytest.importorskip("aiohttp")
    llmguard.instrument(world.guard)
    client = genai.Client(api_key="own", http_options=genai.types.HttpOptions(base_url=world.provider.origin))
    llmguard.uninstrument()

    async def ask() -> Any:
        try:
            return await client.aio.models.generate_content(model="echo", contents="Hello")
        finally:
            await client.aio.aclose()

    assert asyncio.run(ask()).text.endswith(": Hello")
    client.close()
