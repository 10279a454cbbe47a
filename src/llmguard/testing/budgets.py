"""Budgets that stand still while a test runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from llmguard.core.rules import BudgetRule
from llmguard.guard import Guard, get_guard


@contextmanager
def freeze_budgets(*, exhausted: str | Collection[str] = (), guard: Guard | None = None) -> Iterator[None]:
    """Inside, no budget counts and none refuses, save those named ``exhausted``, which refuse every call of theirs.

    Limits go on, and so do the records: calls are charged in the ledger as ever. Holds for calls that this process
    begins inside. ``guard`` is the default one unless given. Raises ValueError for a budget that does not exist.
    """
    guard = guard or get_guard()
    names = frozenset([exhausted] if isinstance(exhausted, str) else exhausted)
    known = {rule.name for rule in guard.config.budget_rules}
    if unknown := names - known:
        raise ValueError(f"there is no budget {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")

    def terms(rule: BudgetRule) -> BudgetRule | None:
        return replace(rule, limit=0, mode="enforce") if rule.name in names else None

    guard.change_budgets(terms)
    try:
        yield
    finally:
        guard.change_budgets()
