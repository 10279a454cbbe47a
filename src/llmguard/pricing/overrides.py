"""Prices and limits from the configuration, matched by ``provider/model`` patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

from llmguard.core.money import Price


@dataclass(frozen=True, slots=True)
class Override:
    """One line of the configuration's `prices`.

    ``pattern`` is a shell pattern over ``provider/model``, where ``*`` also matches slashes; case does not matter.
    ``price`` replaces the catalog's rates as a whole, ``None`` keeps them; so do the two limits, in tokens. Searches of
    a model that the catalog lists keep their fees, and a dear tier of service its premium.
    """

    pattern: str
    price: Price | None = None
    max_output: int | None = None
    context_window: int | None = None

    @property
    def literal(self) -> int:
        """How many characters of the pattern stand for themselves: the more, the more specific it is."""
        return len(re.sub(r"\[[^]]*\]|[*?]", "", self.pattern))


class Overrides:
    """The configured overrides, the most specific first; each field comes from the first one that names it."""

    __slots__ = ("_compiled",)

    def __init__(self, overrides: Iterable[Override]) -> None:
        ranked = sorted(overrides, key=lambda o: o.literal, reverse=True)
        self._compiled = [(re.compile(translate(o.pattern.lower())).match, o) for o in ranked]

    def find(self, provider: str, model: str) -> Override:
        """What is configured for this model, merged into one override (all ``None`` where nothing is)."""
        name = f"{provider}/{model}".lower()
        price: Price | None = None
        max_output: int | None = None
        context_window: int | None = None
        for match, override in self._compiled:
            if match(name):
                price = price or override.price
                max_output = override.max_output if max_output is None else max_output
                context_window = context_window or override.context_window
        return Override(name, price, max_output, context_window)
