"""The catalog: one question, answered from a dictionary after the first time it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from llmguard.core.money import Price, Rates
from llmguard.core.ports import Quote
from llmguard.pricing.convert import dearer
from llmguard.pricing.limits import FALLBACK, limits, writes_nothing
from llmguard.pricing.overrides import Override, Overrides

if TYPE_CHECKING:
    from llmguard.pricing.shelf import Listing

_MAX_QUOTES: Final = 4096
_MAX_NAME: Final = 256
_MAX_KEY: Final = 2 * _MAX_NAME

SANDBOX: Final = "sandbox"
_SANDBOX_PRICE: Final = Price(Rates(input=10**9, output=10**9), SANDBOX)  # $1 per million tokens either way


@dataclass(frozen=True, slots=True)
class Origin:
    """What a configured provider speaks and where it is: this finds its prices, whatever its name."""

    family: str
    base_url: str | None = None


class Catalog:
    """Prices and limits by configured provider and model (a :class:`llmguard.core.ports.PriceBook`).

    The configuration's overrides come first, then the shipped price list, then the provider's dearest known price
    with ``price.known`` False. No price is ever nothing unless an override or the model's own name (`…:free`) says
    so. Prices that depend on the date or the hour are looked at again when they change (``clock`` is Unix seconds).
    May be called from any thread; never touches the network.
    """

    __slots__ = ("_clock", "_fresh_until", "_origins", "_overrides", "_quotes")

    def __init__(
        self,
        origins: Mapping[str, Origin],
        overrides: Iterable[Override] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._origins = {name.lower(): origin for name, origin in origins.items()}
        self._overrides = Overrides(overrides)
        self._clock = clock
        self._quotes: dict[tuple[str, ...], Quote] = {}
        self._fresh_until = 0.0

    def quote(self, provider: str, model: str, tier: str | None = None) -> Quote:
        """The quote for a model. Raises KeyError for a provider that is not configured."""
        if self._clock() >= self._fresh_until:
            self._forget()
        key = (provider, model) if tier is None else (provider, model, tier)
        quote = self._quotes.get(key)
        if quote is None:
            quote = self._look_up(provider, model, tier)
            if sum(map(len, key)) <= _MAX_KEY:
                if len(self._quotes) >= _MAX_QUOTES:  # callers choose the names
                    self._quotes.clear()
                self._quotes[key] = quote
        return quote

    def warm(self) -> None:
        """Read the price list now instead of at the first call."""
        for name in self._origins:
            self.quote(name, "")

    def _forget(self) -> None:
        self._quotes.clear()
        now = datetime.fromtimestamp(self._clock(), UTC)
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        self._fresh_until = midnight.timestamp()

    def _look_up(self, provider: str, model: str, tier: str | None) -> Quote:
        origin = self._origins[provider.lower()]
        override = self._overrides.find(provider, model)
        name = model.lower()
        price, listed_context = self._price(provider, origin, name, tier, override.price)
        output, context = limits(name, override.context_window or listed_context)
        if writes_nothing(name):
            output = 0
        return Quote(price, output if override.max_output is None else override.max_output, context)

    def _price(
        self, provider: str, origin: Origin, name: str, tier: str | None, override: Price | None
    ) -> tuple[Price, int | None]:
        if origin.family == SANDBOX:
            return override or _SANDBOX_PRICE, FALLBACK
        from llmguard.pricing import shelf  # noqa: PLC0415  25 MB that a process without a question never loads

        now = datetime.fromtimestamp(self._clock(), UTC)
        known = name if len(name) <= _MAX_NAME else ""
        listing = shelf.look_up(provider, origin.base_url, origin.family, known, now, tier)
        if listing.until is not None:
            self._fresh_until = min(self._fresh_until, listing.until.timestamp())
        return listing.price if override is None else _laid_over(listing, override), listing.context_window


def _laid_over(listing: Listing, override: Price) -> Price:
    """An override names rates of tokens: a dearer tier costs as many times more as the catalog says, and where the
    catalog knows the model, its searches keep their fees."""
    price = dearer(override, listing.premium) if listing.premium > 1 else override
    if not listing.listed:
        return price
    fees = listing.price
    return replace(price, per_web_search=fees.per_web_search, per_file_search=fees.per_file_search)
