"""Every dialect does what all of them have to do, with the sandbox's answers as examples."""

from __future__ import annotations

import json
from typing import Any

from llmguard.core.call import Request
from llmguard.providers.registry import dialect
from llmguard.providers.sandbox import Ask, Behaviour, Shelf, respond
from llmguard.testing.dialects import DialectSuite, Example

USED = (12, 9)
SAID = Behaviour(text="One two three, and a bit more of it.", usage=USED)
CHAT = [{"role": "user", "content": "Hello there, how are you?"}]
STREAM: dict[str, Any] = {"stream": True}
CHATTING = {"model": "gpt-4o", "messages": CHAT}
COMPLETING = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time"}
RESPONDING = {"model": "gpt-4o", "input": "Hello there, how are you?"}
CLAUDE = {"model": "claude-opus-4-8", "max_tokens": 100, "messages": CHAT}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hello there, how are you?"}]}]}
USAGE = {"stream_options": {"include_usage": True}}


def example(
    path: str, document: dict[str, Any], *, streams: bool = False, terminal: bool = True, model: str | None = None
) -> Example:
    """A call and what the sandbox answers to it; ``model`` is that of a path with `{model}` in it."""
    body, headers = json.dumps(document).encode(), {"content-type": "application/json"}
    where, _, query = path.replace("{model}", model or "").partition("?")
    answer = respond(Ask("POST", where, query, headers, body, lambda prefix: f"{prefix}1", 1, Shelf(), acts=SAID))
    assert answer.status == 200, answer.pieces
    return Example(
        "streamed" if streams else "whole",
        Request("POST", where, query, headers, body),
        path.partition("?")[0],
        b"".join(answer.pieces),
        model or document["model"],
        USED,
        streams,
        terminal=terminal,
        path_model=model,
        content_type=dict(answer.headers)[b"content-type"].decode(),
    )


class TestOpenAIChat(DialectSuite):
    dialect = dialect("openai_chat", "openai")
    examples = (
        example("/v1/chat/completions", CHATTING),
        example("/v1/chat/completions", CHATTING | STREAM | USAGE, streams=True),
    )


class TestOpenAICompletions(DialectSuite):
    dialect = dialect("openai_completions", "openai")
    examples = (
        example("/v1/completions", COMPLETING),
        example("/v1/completions", COMPLETING | STREAM | USAGE, streams=True),
    )


class TestOpenAIResponses(DialectSuite):
    dialect = dialect("openai_responses", "openai")
    examples = (example("/v1/responses", RESPONDING), example("/v1/responses", RESPONDING | STREAM, streams=True))


class TestAnthropicMessages(DialectSuite):
    dialect = dialect("anthropic_messages", "anthropic")
    examples = (example("/v1/messages", CLAUDE), example("/v1/messages", CLAUDE | STREAM, streams=True))


class TestGeminiGenerate(DialectSuite):
    """Events end with the body; a stream that is one JSON array ends with its bracket."""

    dialect = dialect("gemini_generate", "gemini")
    path = "/v1beta/models/{model}:"
    examples = (
        example(path + "generateContent", GEMINI, model="gemini-x"),
        example(path + "streamGenerateContent?alt=sse", GEMINI, streams=True, terminal=False, model="gemini-x"),
        example(path + "streamGenerateContent", GEMINI, streams=True, model="gemini-x"),
    )
