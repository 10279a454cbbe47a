"""How much a model can write and read, from the data file beside this module."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from llmguard.pricing.prefixes import Prefixes, data_file

FALLBACK: Final = 128_000
"""Tokens assumed for a context window, and so for a reply, that nobody knows."""

_EMBEDS = re.compile(r"embed|rerank|voyage-|\bbge-|\bgte-")


@cache
def _tables() -> tuple[Prefixes[int], Prefixes[int]]:
    data = data_file("output_limits.toml")
    return Prefixes(data["output"]), Prefixes(data["context"])


def writes_nothing(model: str) -> bool:
    """Whether the model is an embedding or ranking model by its name."""
    return _EMBEDS.search(model) is not None


def limits(model: str, catalog_context: int | None) -> tuple[int, int]:
    """(longest reply, context window) of a lower-case model name, in tokens.

    The reply's limit is the listed one, else the context window; that is the catalog's, else the listed one, else
    :data:`FALLBACK`.
    """
    output, context = _tables()
    window = catalog_context or context.get(model) or FALLBACK
    return output.get(model) or window, window
