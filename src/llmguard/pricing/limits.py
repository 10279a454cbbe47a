"""How much a model can write and read, from the data file beside this module."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

FALLBACK: Final = 128_000
"""Tokens assumed for a context window, and so for a reply, that nobody knows."""

_EMBEDS = re.compile(r"embed|rerank|voyage-|\bbge-|\bgte-")


class _Prefixes:
    """Values by beginnings of model names; the longest beginning wins."""

    __slots__ = ("_search", "_values")

    def __init__(self, values: Mapping[str, int]) -> None:
        longest_first = sorted(values, key=len, reverse=True)
        self._values = values
        self._search = re.compile(rf"(?:^|[/.:])({'|'.join(map(re.escape, longest_first))})").search

    def get(self, model: str) -> int | None:
        found = self._search(model)
        return self._values[found[1]] if found else None


@cache
def _tables() -> tuple[_Prefixes, _Prefixes]:
    data = tomllib.loads(files("llmguard.pricing").joinpath("output_limits.toml").read_text("utf-8"))
    return _Prefixes(data["output"]), _Prefixes(data["context"])


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
