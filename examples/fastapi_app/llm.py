"""Everything that is asked of language models, with the SDK as it is."""

import os
from collections.abc import AsyncIterator

import openai

MODEL = os.environ.get("MODEL", "gpt-4o-mini")


def summarise(text: str) -> str:
    """The text in one sentence."""
    with openai.OpenAI() as client:
        messages = [{"role": "user", "content": f"Summarise in one sentence:\n\n{text}"}]
        reply = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=100)
    return reply.choices[0].message.content or ""


async def translate(text: str, language: str) -> AsyncIterator[str]:
    """The text in another language, piece by piece."""
    async with openai.AsyncOpenAI() as client:
        messages = [{"role": "user", "content": f"Translate into {language}:\n\n{text}"}]
        asked = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1_000, stream=True)
        async with await asked as events:
            async for event in events:
                for choice in event.choices:
                    yield choice.delta.content or ""
