"""How budgets stand for a caller: for people and pages that show it, never for deciding a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from llmguard.core.buckets import Bucket, budget_bucket
from llmguard.core.moves import Level
from llmguard.core.rules import ANY, DIMENSIONS, BudgetRule
from llmguard.errors import StoreUnavailable
from llmguard.runtime.process import ProcessService


@dataclass(frozen=True, slots=True)
class Remaining:
    """One budget in its current window. Amounts are integers in ``unit``: `usd` is nano-USD, else `tokens`.

    ``spent`` is settled and presumed spend, ``held`` what running calls have reserved, ``remaining`` what is left
    beside both. ``reset_at`` is epoch milliseconds UTC, None for a budget that never begins anew.
    """

    rule: str
    scope: Mapping[str, str] = field(hash=False)
    window: str
    unit: str
    limit: int
    spent: int
    held: int
    remaining: int
    reset_at: int | None


def remaining(
    service: ProcessService, rules: Iterable[BudgetRule], scope: Mapping[str, str], now: int
) -> list[Remaining]:
    """The budgets that count for callers of ``scope``, as the store has them, or while it is away the ledger.

    A budget whose scope names a dimension that ``scope`` does not is left out. Raises LedgerUnavailable, and ValueError
    for a ``scope`` that nobody can have.
    """
    for name, value in scope.items():
        if name not in DIMENSIONS or not isinstance(value, str):
            raise ValueError(f"{name}={value!r}: write text for one or more of {', '.join(DIMENSIONS)}")
    buckets = list(_buckets(rules, scope, now))
    levels = _levels(service, [bucket.name for bucket in buckets])
    return [_standing(bucket, levels.get(bucket.name, _NOTHING)) for bucket in buckets]


_NOTHING = Level(0, 0, 0, 0)


def _buckets(rules: Iterable[BudgetRule], scope: Mapping[str, str], now: int) -> Iterator[Bucket]:
    for rule in rules:
        if all(name in scope and wanted in (ANY, scope[name]) for name, wanted in rule.scope.items()):
            yield budget_bucket(rule, {name: scope[name] for name in rule.scope}, now)


def _levels(service: ProcessService, names: list[str]) -> Mapping[str, Level]:
    try:
        found = service.link.levels(names)
    except StoreUnavailable:
        found = None
    return service.charged() if found is None else found


def _standing(bucket: Bucket, level: Level) -> Remaining:
    spent = level.settled + level.orphan
    return Remaining(
        bucket.rule,
        bucket.scope,
        bucket.window,
        bucket.unit,
        bucket.limit,
        spent,
        level.held,
        max(bucket.limit - spent - level.held, 0),
        bucket.resets_at or None,
    )
