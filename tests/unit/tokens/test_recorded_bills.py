"""Counts against what providers billed for recorded text-only chats."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmguard.tokens import Counter
from tests.support.recordings import records

COUNTER = Counter()
_PLAIN = {
    *("model", "messages", "system", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop"),
    *("stop_sequences", "stream", "stream_options", "n", "seed", "user", "metadata", "logprobs"),
    *("presence_penalty", "frequency_penalty", "cache_control"),
}


def texts_of(content: Any) -> list[str] | None:
    """The texts of a message's content; None where there is more in it than text."""
    parts = content if isinstance(content, list) else [{"text": content}]
    if not all(set(part) <= {"type", "text", "cache_control"} and isinstance(part.get("text"), str) for part in parts):
        return None
    return [part["text"] for part in parts]


def prompt_of(body: dict[str, Any]) -> list[str] | None:
    """Roles and contents of plain messages, and the system prompt."""
    texts: list[str] = []
    system = [{"content": body["system"]}] if body.get("system") else []
    for message in [*system, *body["messages"]]:
        content = texts_of(message.get("content")) if set(message) <= {"role", "content"} else None
        if content is None:
            return None
        texts += [*([message["role"]] if "role" in message else []), *content]
    return texts


def chats(provider: str, model: str) -> list[tuple[str, list[str], int, int]]:
    """(model, texts, messages, billed input) of recorded chats that are nothing but text."""
    found = []
    for record in records(provider):
        body, usage, served = record["request"]["body"], record["usage_expected"], record["model"]["response"]
        if not isinstance(body, dict) or not usage or not re.match(model, str(served)) or set(body) - _PLAIN:
            continue
        if isinstance(body.get("messages"), list) and (texts := prompt_of(body)):
            found.append((served, texts, len(body["messages"]), usage["input_tokens"]))
    return found


@pytest.mark.parametrize(
    ("model", "least"), [("gpt-4o-.*20", 200), ("gpt-4.1-", 50), ("gpt-4-0613", 10), ("gpt-3.5-turbo-(0613|0125)", 20)]
)
def test_openai_chats_are_counted_as_billed(model: str, least: int) -> None:
    """A message adds 3 tokens and the reply's beginning 3 (OpenAI's cookbook, "How to count tokens")."""
    recorded = chats("openai", model)
    assert len(recorded) >= least
    wrong = [r for r in recorded if COUNTER.count(r[0], r[1]) + 3 * r[2] + 3 != r[3]]
    assert len(wrong) <= len(recorded) // 20, wrong


def test_claude_chats_are_counted_close_to_what_was_billed() -> None:
    """Within a fifth, and mostly not below; a message adds some 4 tokens. The billed text of a few is not recorded."""
    recorded = [r for r in chats("anthropic", "claude") if r[3] >= 100]
    assert len(recorded) >= 50
    ratios = [(COUNTER.count(model, texts) + 4 * messages) / billed for model, texts, messages, billed in recorded]
    assert sum(0.9 <= ratio <= 1.2 for ratio in ratios) >= 0.9 * len(ratios), sorted(ratios)
    assert sum(ratio >= 1 for ratio in ratios) >= 0.85 * len(ratios), sorted(ratios)
