"""A process that calls a provider with whatever SDKs it finds first: run as `CONFIG URL HOW`.

HOW is `client` (guarded clients are passed) or `instrument`. Prints one JSON document: the versions of the SDKs, what
each call said, and what a refused one did.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anthropic
import openai

import llmguard

CONFIG, URL, HOW = sys.argv[1:4]
HELLO: Any = [{"role": "user", "content": "Hello"}]
MODULE = "httpx" if openai.__version__.startswith("1.") else "httpx2"


def main() -> None:
    """Make the calls."""
    llmguard.configure(CONFIG)
    given: Any = {}
    agiven: Any = {}
    if HOW == "client":
        given = {"http_client": llmguard.http_client(module=MODULE)}
        agiven = {"http_client": llmguard.async_http_client(module=MODULE)}
    else:
        llmguard.instrument()
    with llmguard.context(team="search", env="prod", feature="chat"):
        said = [*_sync(given), *asyncio.run(_async(agiven))]
        said += asyncio.run(_google()) if MODULE == "httpx2" else []
        refused = _refused(given)
    llmguard.get_guard().close()
    print(json.dumps({"openai": openai.__version__, "anthropic": anthropic.__version__, "said": said, **refused}))


def _sync(given: Any) -> list[str]:
    oai: Any = openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-own", **given)
    ant: Any = anthropic.Anthropic(base_url=URL, api_key="sk-own", **given)
    chat = oai.chat.completions.create(model="echo", messages=HELLO).choices[0].message.content
    chunks = oai.chat.completions.create(model="echo", messages=HELLO, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    message = ant.messages.create(model="echo", max_tokens=64, messages=HELLO).content[0].text
    with ant.messages.stream(model="echo", max_tokens=64, messages=HELLO) as stream:
        return [chat, streamed, message, stream.get_final_text()]


async def _async(given: Any) -> list[str]:
    oai: Any = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="sk-own", **given)
    ant: Any = anthropic.AsyncAnthropic(base_url=URL, api_key="sk-own", **given)
    chat = (await oai.chat.completions.create(model="echo", messages=HELLO)).choices[0].message.content
    chunks = await oai.chat.completions.create(model="echo", messages=HELLO, stream=True)
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    message = (await ant.messages.create(model="echo", max_tokens=64, messages=HELLO)).content[0].text
    async with ant.messages.stream(model="echo", max_tokens=64, messages=HELLO) as stream:
        final = await stream.get_final_text()
    await oai.close()
    await ant.close()
    return [chat, streamed, message, final]


async def _google() -> list[str]:
    from google import genai

    options: Any = {"base_url": URL}
    if HOW == "client":
        options["httpx_async_client"] = llmguard.async_http_client()
    client: Any = genai.Client(api_key="own", http_options=genai.types.HttpOptions(**options))
    whole = (await client.aio.models.generate_content(model="echo", contents="Hello")).text
    chunks = await client.aio.models.generate_content_stream(model="echo", contents="Hello")
    streamed = "".join([chunk.text async for chunk in chunks])
    await client.aio.aclose()
    client.close()
    return [whole, streamed]


def _refused(given: Any) -> dict[str, Any]:
    """Spend the rest of the budget and be refused."""
    oai: Any = openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-own", **given)
    oai.chat.completions.create(model="usage-9000-1000", messages=HELLO)
    try:
        oai.chat.completions.create(model="echo", messages=HELLO)
    except openai.RateLimitError as error:
        told = llmguard.refusal(error)
        assert told is not None
        return {"code": told.code, "scope": told.scope}
    return {"code": None}


if __name__ == "__main__":
    main()
