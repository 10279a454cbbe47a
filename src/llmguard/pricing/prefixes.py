"""Values by beginnings of model names, as the data files of this package have them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefixes(Generic[T]):
    """Finds the value of a lower-case model name, with or without a vendor before it; the longest beginning wins."""

    __slots__ = ("_search", "_values")

    def __init__(self, values: Mapping[str, T]) -> None:
        longest_first = sorted(values, key=len, reverse=True)
        self._values = values
        self._search = re.compile(rf"(?:^|[/.:])({'|'.join(map(re.escape, longest_first))})").search

    def get(self, model: str) -> T | None:
        found = self._search(model)
        return self._values[found[1]] if found else None


def data_file(name: str) -> dict[str, Any]:
    """A data file beside this module."""
    return tomllib.loads(files("llmguard.pricing").joinpath(name).read_text("utf-8"))
