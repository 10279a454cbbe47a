"""Embeddings that need no model: words hashed into buckets, so that texts with words in common lie close together."""

from __future__ import annotations

import math
import re
import struct
from base64 import b64encode
from hashlib import blake2b
from typing import Any

from llmguard.providers.sandbox.answer import Answer, Ask, whole
from llmguard.providers.sandbox.behaviour import Behaviour
from llmguard.providers.sandbox.draft import count, positive, texts_of

DIMENSIONS = 256
MOST_DIMENSIONS = 4096
_WORD = re.compile(r"\w+")


def vector(text: str, dimensions: int | None = None) -> list[float]:
    """A vector of length one: one count per word in the bucket its hash names, with the sign its hash names."""
    size = min(dimensions or DIMENSIONS, MOST_DIMENSIONS)
    values = [0.0] * size
    for word in _WORD.findall(text.lower()) or [text]:
        hashed = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
        values[(hashed >> 1) % size] += 1.0 if hashed & 1 else -1.0
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]


def embeddings(ask: Ask, model: str, behaviour: Behaviour) -> Answer:
    """`POST /v1/embeddings`; an input of token numbers counts as that many tokens."""
    asked = ask.doc["input"]
    many = isinstance(asked, list) and not all(isinstance(item, int) for item in asked)
    inputs = [texts_of(item) for item in asked] if many else [texts_of(asked)]
    size = positive(ask.doc.get("dimensions"))
    packed = ask.doc.get("encoding_format") == "base64"
    vectors = [vector(" ".join(texts), size) for texts in inputs]
    rows = [
        {"object": "embedding", "index": n, "embedding": _pack(values) if packed else values}
        for n, values in enumerate(vectors)
    ]
    document: dict[str, Any] = {"object": "list", "data": rows, "model": model}
    if behaviour.reports:
        tokens = behaviour.usage[0] if behaviour.usage else sum(count(texts) for texts in inputs)
        document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return whole(document, behaviour)


def _pack(values: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
