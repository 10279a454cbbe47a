"""The official SDKs, sync and async behind one face, told of a gateway by nothing but its address and a key."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import openai
from google import genai


class Calls:
    """Finishes what an SDK returns: at once from the sync clients, on a loop of its own from the async ones."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self._runner = runner

    def done(self, answer: Any) -> Any:
        """The answer itself."""
        return self._run(answer) if inspect.isawaitable(answer) else answer

    def each(self, stream: Any) -> list[Any]:
        """Everything a stream or a list of pages brings."""
        if hasattr(stream, "__aiter__"):
            return self._run(_collected(stream))
        stream = self.done(stream)
        return self._run(_collected(stream)) if hasattr(stream, "__aiter__") else list(stream)

    def _run(self, answer: Awaitable[Any]) -> Any:
        assert self._runner is not None
        return self._runner.run(_awaited(answer))


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


async def _collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


class Sdks(Calls):
    """One client of each SDK, all with the same key. ``gem`` is the part of google-genai that makes calls."""

    def __init__(self, url: str, key: str, runner: asyncio.Runner | None) -> None:
        super().__init__(runner)
        sync = runner is None
        self.oai: Any = (openai.OpenAI if sync else openai.AsyncOpenAI)(base_url=f"{url}/v1", api_key=key)
        self.ant: Any = (anthropic.Anthropic if sync else anthropic.AsyncAnthropic)(base_url=url, api_key=key)
        self._genai = genai.Client(api_key=key, http_options=genai.types.HttpOptions(base_url=url))
        self.gem: Any = self._genai if sync else self._genai.aio

    def close(self) -> None:
        self.done(self.oai.close())
        self.done(self.ant.close())
        if self.gem is not self._genai:
            self.done(self.gem.aclose())
        self._genai.close()


@contextmanager
def sdks(url: str, key: str, *, sync: bool = True) -> Iterator[Sdks]:
    """Clients that are closed at the end of the block."""
    if sync:
        clients = Sdks(url, key, None)
        try:
            yield clients
        finally:
            clients.close()
    else:
        with asyncio.Runner() as runner:
            clients = Sdks(url, key, runner)
            try:
                yield clients
            finally:
                clients.close()
