"""Budgets and limits as the core sees them: parsed once, frozen, free of any file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from llmguard.core.outage import WhenStoreDown
from llmguard.core.windows import Window

Unit = Literal["usd", "tokens"]
Mode = Literal["enforce", "warn"]
LimitKind = Literal["rate", "concurrent", "tokens"]

ANY: Final = "*"
"""As a scope's value: one bucket for every value that occurs."""

DIMENSIONS: Final = ("org", "team", "env", "feature", "key", "end_user", "model", "provider", "task", "tree")
"""What a scope may name, in the order in which it is written out."""

PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A cap on money or tokens over a window.

    ``limit`` is nano-USD for unit `usd`, else tokens (input + output). ``scope`` maps dimensions to one value or
    :data:`ANY`; an empty scope is everything. ``timezone`` is an IANA name. ``overshoot_ppm`` is how far the worst
    case may pass the limit, in millionths of it (100_000 = 10 %; 0 is strict). ``alert_ppm`` are the shares of the
    limit at which an operator is told. A rule in mode `warn` only counts. With ``keep_ms`` the bucket of a `total`
    window is forgotten so long after its first charge.
    """

    name: str
    scope: Mapping[str, str] = field(hash=False)
    limit: int
    unit: Unit
    window: Window
    timezone: str = "UTC"
    overshoot_ppm: int = 100_000
    mode: Mode = "enforce"
    alert_ppm: tuple[int, ...] = ()
    keep_ms: int = 0
    when_store_down: WhenStoreDown = "local"

    @property
    def alerts(self) -> tuple[int, ...]:
        """The thresholds of the alerts in the rule's unit, ascending."""
        return tuple(sorted({self.limit * ppm // PPM for ppm in self.alert_ppm}))

    @property
    def ceiling(self) -> int:
        """L × (1 + overshoot), rounded down."""
        return self.limit + self.limit * self.overshoot_ppm // PPM


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A cap over a short time: requests (`rate`), tokens, or calls that run at once (`concurrent`).

    ``limit`` counts requests, tokens or calls; ``period_ms`` is 0 for `concurrent`. ``scope`` as in
    :class:`BudgetRule`.
    """

    name: str
    scope: Mapping[str, str] = field(hash=False)
    kind: LimitKind
    limit: int
    period_ms: int = 0
    when_store_down: WhenStoreDown = "local"
