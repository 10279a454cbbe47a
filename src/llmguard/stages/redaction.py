"""Takes out of prompts and replies what must not be kept: keys of providers, e-mail addresses, card numbers, and more.

A reply that came as a stream is first put together to the text it says, since a number may come in two events. What a
model paraphrases, or a picture shows, is beyond this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from llmguard.providers.base import UNREADABLE, mask_secrets

MASK: Final = "***"

_EMAIL = re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,8}")
_CARD = re.compile(r"(?<!\d)\d(?:[ \-]?\d){12,18}(?!\d)")
_SPOKEN: Final = ("content", "reasoning_content", "refusal", "text", "thinking", "partial_json", "arguments")
"""Members of a stream's events that carry what the model says."""


class Redactor:
    """``patterns`` are regular expressions of one's own; all that they find is masked, too."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]

    def __call__(self, data: bytes) -> str:
        """The text of a prompt's or reply's bytes, fit to be kept."""
        text = mask_secrets(_readable(data).encode("utf-8", "replace")).decode("utf-8", "replace")
        text = _EMAIL.sub(MASK, text)
        text = _CARD.sub(_masked_card, text)
        for pattern in self._patterns:
            text = pattern.sub(MASK, text)
        return text


def as_it_came(data: bytes) -> str:
    """The text of bytes with all that is in it."""
    return data.decode("utf-8", "replace")


def _masked_card(found: re.Match[str]) -> str:
    digits = [int(digit) for digit in found[0] if digit.isdigit()]
    return MASK if _luhn(digits) else found[0]


def _luhn(digits: Sequence[int]) -> bool:
    """The check of card numbers (ISO/IEC 7812-1, annex B)."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _readable(data: bytes) -> str:
    """A stream as what it says; JSON without escapes that hide a character; anything else as it is."""
    if data.startswith((b"data:", b"event:", b":")):
        return _spoken(data) or as_it_came(data)
    try:
        return json.dumps(msgspec.json.decode(data), ensure_ascii=False)
    except UNREADABLE:
        return as_it_came(data)


def _spoken(stream: bytes) -> str:
    """What the events of a stream say together, each choice of the answer by itself."""
    said: dict[int, list[str]] = {}
    for line in stream.splitlines():
        if line.startswith(b"data:"):
            for choice, text in _said(_decoded(line[5:])):
                said.setdefault(choice, []).append(text)
    return "\n".join("".join(texts) for texts in said.values())


def _decoded(data: bytes) -> Mapping[str, Any]:
    try:
        event = msgspec.json.decode(data)
    except UNREADABLE:
        return {}
    return event if isinstance(event, dict) else {}


def _said(event: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The number of the choice, and a piece of it. Events that repeat a whole answer say nothing new."""
    if isinstance(kind := event.get("type"), str):
        delta = event.get("delta") if kind.endswith("delta") else None
        texts = [delta] if isinstance(delta, str) else _texts(delta)
        number = event.get("index", event.get("output_index", 0))
        yield from ((number if isinstance(number, int) else 0, text) for text in texts)
        return
    choices = event.get("choices") or event.get("candidates")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            number = choice.get("index", 0)
            for text in _texts({"text": choice.get("text"), "content": choice.get("delta") or choice.get("content")}):
                yield number if isinstance(number, int) else 0, text


def _texts(value: Any) -> Iterator[str]:
    """Every text that is said in a part of an event, in order."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in _SPOKEN and isinstance(item, str):
                yield item
            elif isinstance(item, dict | list):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
