"""What the sandbox says, before any wire format: the same words for the same prompt, and token counts to predict.

Input tokens are the UTF-8 bytes of all texts of the prompt divided by four, rounded up, at least one. Output tokens
are pieces: one for each word of a text, one for every eight characters of JSON (tool arguments, structured replies).
A stream carries one piece per event. A last turn that says "use the tool" makes it call the first tool on offer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import msgspec

from llmguard.providers.sandbox.behaviour import Behaviour
from llmguard.providers.sandbox.sample import sample

BYTES_PER_TOKEN = 4
JSON_PIECE = 8
DEEPEST = 64
ECHOED_CHARACTERS = 400
USE_THE_TOOL = "use the tool"
MOST_CHOICES = 128
FILLER = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "while", "budgets", "hold")

# Fields of a message that carry text, in any of the dialects.
TEXT_FIELDS = (
    *("content", "text", "parts", "input", "output", "arguments", "refusal", "tool_calls", "function"),
    *("functionCall", "functionResponse", "function_call", "function_response", "response", "args", "result"),
)
_WORD = re.compile(r"\s*\S+|\s+")

Finish = Literal["stop", "length", "tool"]
ToolChoice = Literal["auto", "must", "none"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers."""

    name: str
    schema: Any


@dataclass(slots=True)
class Prompt:
    """A request as the sandbox reads it.

    ``last`` is the text of the last turn and ``asked`` whether a person wrote it (not a tool). ``tool_name`` is the
    tool that was chosen for the model. ``schema`` is set where the reply has to be JSON.
    """

    texts: list[str]
    last: str = ""
    asked: bool = True
    tools: list[Tool] = field(default_factory=list)
    choice: ToolChoice = "auto"
    tool_name: str | None = None
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    choices: int = 1
    stream: bool = False


@dataclass(slots=True)
class Draft:
    """A reply: ``pieces`` of text, or of the arguments of the call to ``tool``. ``usage`` is what to report, if so."""

    pieces: list[str]
    tool: str | None
    finish: Finish
    usage: tuple[int, int] | None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def texts_of(value: Any, depth: int = 0) -> list[str]:
    """Every text of a message or a list of them, in order; an integer stands for a token that is already one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, int) and not isinstance(value, bool):
        return [" " * BYTES_PER_TOKEN]
    if depth == DEEPEST:
        return []
    parts = value if isinstance(value, list) else []
    if isinstance(value, Mapping):
        parts = [value[name] for name in TEXT_FIELDS if name in value]
    return [text for part in parts for text in texts_of(part, depth + 1)]


def count(texts: Iterable[str]) -> int:
    """Input tokens of a prompt."""
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return max(1, -(-size // BYTES_PER_TOKEN))


def positive(value: Any) -> int | None:
    """A limit from a request: None unless it is a positive integer."""
    return value if isinstance(value, int) and value > 0 and not isinstance(value, bool) else None


def choices(value: Any) -> int:
    """How many replies a request asks for, within reason."""
    return min(positive(value) or 1, MOST_CHOICES)


def draft(prompt: Prompt, behaviour: Behaviour) -> Draft:
    """The reply to a prompt."""
    digest = sha256("\0".join(prompt.texts).encode("utf-8", "replace")).hexdigest()[:8]
    limit = prompt.max_tokens
    if behaviour.text is None and (tool := _tool(prompt)):
        pieces = _json_pieces(sample(tool.schema, digest))
        if limit is None or len(pieces) <= limit:
            return Draft(pieces, tool.name, "tool", _usage(prompt, behaviour, len(pieces)))
    pieces = _reply(prompt, behaviour, digest)
    finish: Finish = "length" if limit is not None and len(pieces) > limit else "stop"
    pieces = pieces[:limit]
    return Draft(pieces, None, finish, _usage(prompt, behaviour, len(pieces)))


def _tool(prompt: Prompt) -> Tool | None:
    """The chosen or first tool, if the last turn says "use the tool" or the request that one must be called."""
    wanted = prompt.choice == "must" or (prompt.choice == "auto" and USE_THE_TOOL in prompt.last.lower())
    if not wanted or not prompt.asked:
        return None
    return next((tool for tool in prompt.tools if prompt.tool_name in (None, tool.name)), None)


def _reply(prompt: Prompt, behaviour: Behaviour, digest: str) -> list[str]:
    if behaviour.text is not None:
        return _WORD.findall(behaviour.text)
    if prompt.schema is not None:
        return _json_pieces(sample(prompt.schema, digest))
    if behaviour.words is not None:
        start = int(digest, 16)
        words = (FILLER[(start + n) % len(FILLER)] for n in range(behaviour.words))
        return _WORD.findall(" ".join(words))
    return _WORD.findall(f"Sandbox reply {digest}: {prompt.last[:ECHOED_CHARACTERS]}")


def _json_pieces(value: Any) -> list[str]:
    text = msgspec.json.encode(value).decode()
    return [text[at : at + JSON_PIECE] for at in range(0, len(text), JSON_PIECE)]


def _usage(prompt: Prompt, behaviour: Behaviour, pieces: int) -> tuple[int, int] | None:
    if not behaviour.reports:
        return None
    return behaviour.usage or (count(prompt.texts), pieces * prompt.choices)
