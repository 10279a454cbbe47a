"""What Gemini's dialects share: fields with two spellings, parts of a prompt, and the model that a path names.

Google's JSON parser takes every field in lowerCamelCase and in snake_case, integers also as strings, and one object
where a list is meant. What it would accept is read here, or refused; nothing is overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmguard.core.call import ObjectRef
from llmguard.errors import BadCall
from llmguard.providers import objects
from llmguard.providers.base import encode, take_int, take_object, take_str, wrong

FAMILY = "gemini"
MAX_INT32 = 2**31 - 1

IMAGE_TOKENS = 4_128
"""Most tokens of an image: 16 tiles of 768 pixels at 258 (docs "Understand and count tokens")."""
PAGE_TOKENS = 1_120
"""Tokens of a PDF page at high resolution (docs "Media resolution")."""
PAGE_BYTES = 4_096
MOST_PAGES = 1_000
AUDIO_BYTES_PER_TOKEN = 32
"""Sound at 8 kbit/s has 32 bytes for each of its 32 tokens a second."""
VIDEO_BYTES_PER_TOKEN = 8
"""Films have 263 tokens a second (docs "Understand and count tokens"): 17 kbit/s."""

_UPPER = re.compile("[A-Z]")
_BY_PROMPT = re.compile(r"gemini-[12]\b")
_TEXTUAL = frozenset({"text", "thought", "thoughtSignature", "thought_signature", "functionCall", "function_call"})
_SILENT_LEAVES = frozenset({"data", "mimeType", "mime_type", "role", "thoughtSignature", "thought_signature", "id"})


def both_spellings(*camel: str) -> dict[str, str]:
    """A table for :func:`spellings`: each field's lowerCamelCase by both its spellings."""
    return {name: field for field in camel for name in (field, _UPPER.sub(r"_\g<0>", field).lower())}


def spellings(doc: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, str]:
    """How ``doc`` spells the fields of ``table`` that it has.

    Both spellings of one at once are a duplicate: parsers disagree about which one counts.
    """
    found: dict[str, str] = {}
    for name in doc:
        field = table.get(name)
        if field is not None:
            if field in found:
                message = f"'{found[field]}' and '{name}' are the same field; send one."
                raise BadCall(message, code="duplicate_field", param=field)
            found[field] = name
    return found


def take_int32(doc: Mapping[str, Any], name: str, *, minimum: int = 0, param: str | None = None) -> int | None:
    """An integer field, also one written as a string of digits."""
    value = doc.get(name)
    if type(value) is str and value.removeprefix("-").isdecimal() and value.isascii() and len(value) < 12:
        doc = {name: int(value)}
    return take_int(doc, name, minimum=minimum, maximum=MAX_INT32, param=param)


def take_objects(doc: Mapping[str, Any], name: str, *, param: str | None = None) -> list[dict[str, Any]]:
    """A field that is a list of objects, or one of them; absent and null are an empty list."""
    value = doc.get(name)
    if value is None:
        return []
    if type(value) is dict:
        return [value]
    if type(value) is not list:
        raise wrong(param or name, value, "an array of objects")
    for item in value:
        if type(item) is not dict:
            raise wrong(param or name, item, "an array of objects")
    return value


def check_model(doc: Mapping[str, Any], model: str, param: str = "model") -> None:
    """A body may repeat the model of its path, not name another one: only the one in the path has its price checked."""
    named = take_str(doc, "model", param=param)
    if named is not None and named.removeprefix("models/") != model.removeprefix("models/"):
        raise BadCall(f"'{param}' must be the model in the path, 'models/{model}'.", code="invalid_value", param=param)


@lru_cache
def searches_per_prompt(model: str) -> bool:
    """Whether Google bills a prompt that searched once, as it does up to Gemini 2.5; later it bills each query (docs
    "Grounding with Google Search", pricing)."""
    return _BY_PROMPT.search(model) is not None


_MIME_TYPE = both_spellings("mimeType")


@dataclass(slots=True)
class Prompt:
    """What a prompt has beside its text.

    ``encoded`` bytes of base64, ``tokens`` of media, ``unseen`` input that lies or comes from elsewhere, whether there
    is ``audio``, whether the web may be searched, and the objects at the provider that it names.
    """

    encoded: int = 0
    tokens: int = 0
    unseen: bool = False
    audio: bool = False
    searches: bool = False
    reads: tuple[ObjectRef, ...] = ()

    def contents(self, contents: list[dict[str, Any]]) -> None:
        """Look at contents; plain text has nothing to see."""
        for content in contents:
            parts = content.get("parts")
            for part in parts if type(parts) is list else take_objects(content, "parts", param="contents.parts"):
                if type(part) is not dict:
                    raise wrong("contents.parts", part, "an array of objects")
                if len(part) > 1 or "text" not in part:
                    self._part(part)

    def other(self, name: str, value: object) -> None:
        """Look for objects in a member that is not interpreted otherwise."""
        self.reads += tuple(objects.GEMINI.walk({name: value}))

    def _part(self, part: dict[str, Any]) -> None:
        for name, value in part.items():
            if name in _TEXTUAL:
                continue
            if name in ("inlineData", "inline_data"):
                self._inline(take_object(part, name, param=f"contents.parts.{name}") or {})
                continue
            self.other(name, value)
            if name in ("fileData", "file_data"):
                self.unseen = self.unseen or value is not None
                self.audio = self.audio or _may_sound(value)
            elif name in ("functionResponse", "function_response") and type(value) is dict and "parts" in value:
                self.contents([value])

    def _inline(self, blob: dict[str, Any]) -> None:
        size = len(take_str(blob, "data", param="contents.parts.inlineData.data") or "")
        name = spellings(blob, _MIME_TYPE).get("mimeType", "mimeType")
        mime = take_str(blob, name, param="contents.parts.inlineData.mimeType") or ""
        kind = mime.partition("/")[0].lower()
        self.encoded += size
        if kind == "image":
            self.tokens += IMAGE_TOKENS
        elif kind in ("audio", "video"):
            self.tokens += size // (AUDIO_BYTES_PER_TOKEN if kind == "audio" else VIDEO_BYTES_PER_TOKEN) + 1
            self.audio = True
        elif mime == "application/pdf":
            self.tokens += PAGE_TOKENS * min(size // PAGE_BYTES + 1, MOST_PAGES)
        else:
            self.tokens += size


def _may_sound(file: object) -> bool:
    """Whether a file at Google may be audio or video, as far as its stated type tells."""
    if type(file) is not dict:
        return False
    mime = file.get(spellings(file, _MIME_TYPE).get("mimeType", ""))
    return type(mime) is not str or mime.partition("/")[0].lower() not in ("application", "image", "text")


def strings(value: object) -> Iterator[str]:
    """The texts in contents, and the arguments and results of functions as JSON."""
    if type(value) is str:
        yield value
    elif type(value) is list:
        for item in value:
            yield from strings(item)
    elif type(value) is dict:
        for name, inner in value.items():
            if name in ("args", "response"):
                yield encode(inner).decode()
            elif name not in _SILENT_LEAVES:
                yield from strings(inner)
