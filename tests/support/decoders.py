"""The official SDKs reading bytes: what each makes of a body that is an event stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai
from google import genai

Read = tuple[list[Any], Exception | None]
"""What the caller's loop was given, and the SDK's exception that ended it, if one did."""
_URL = "http://provider"


class Decoders:
    """One client of each SDK; whatever is asked, the answer is ``body``."""

    def __init__(self) -> None:
        self._body = b""
        self._http = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        self._openai = openai.OpenAI(api_key="k", base_url=f"{_URL}/v1", http_client=self._http, max_retries=0)
        self._anthropic = anthropic.Anthropic(api_key="k", base_url=_URL, http_client=self._http, max_retries=0)
        options = genai.types.HttpOptions(base_url=_URL, httpx_client=self._http)
        self._genai = genai.Client(api_key="k", http_options=options)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=self._body)

    def close(self) -> None:
        self._http.close()

    def _read(self, body: bytes, ask: Callable[[], Iterable[Any]]) -> Read:
        self._body = body
        items: list[Any] = []
        try:
            items.extend(ask())
        except (openai.APIError, anthropic.APIError, genai.errors.APIError) as error:
            return items, error
        return items, None

    def chat(self, body: bytes) -> Read:
        """Chunks of a chat completion."""
        return self._read(body, lambda: self._openai.chat.completions.create(model="m", messages=[], stream=True))

    def completion(self, body: bytes) -> Read:
        """Chunks of a text completion."""
        return self._read(body, lambda: self._openai.completions.create(model="m", prompt="", stream=True))

    def response(self, body: bytes) -> Read:
        """Events of a response."""
        return self._read(body, lambda: self._openai.responses.create(model="m", input="", stream=True))

    def message(self, body: bytes) -> Read:
        """Events of a message."""
        hello: Any = [{"role": "user", "content": "x"}]
        return self._read(
            body, lambda: self._anthropic.messages.create(model="m", max_tokens=9, messages=hello, stream=True)
        )

    def content(self, body: bytes) -> Read:
        """Chunks of generated content."""
        return self._read(body, lambda: self._genai.models.generate_content_stream(model="m", contents="x"))


@contextmanager
def decoders() -> Iterator[Decoders]:
    """The three SDKs, closed at the end."""
    made = Decoders()
    try:
        yield made
    finally:
        made.close()
