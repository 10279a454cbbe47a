"""For the tests of applications that use llmguard, and of what is built to work with it.

Importing this package costs next to nothing: each name is loaded when it is first used. The pytest plugin with the
fixtures is :mod:`llmguard.testing.plugin`; the suites for third parties' stores, ledgers and dialects are
:mod:`~llmguard.testing.stores`, :mod:`~llmguard.testing.ledgers` and :mod:`~llmguard.testing.dialects`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmguard.testing.budgets import freeze_budgets
    from llmguard.testing.clock import Clock
    from llmguard.testing.isolated import isolated_guard
    from llmguard.testing.provider import FakeProvider
    from llmguard.testing.scripts import Received, Reply
    from llmguard.testing.spending import Spent, cost_at_most, spend

__all__ = [
    "Clock",
    "FakeProvider",
    "Received",
    "Reply",
    "Spent",
    "cost_at_most",
    "freeze_budgets",
    "isolated_guard",
    "spend",
]

_HOMES = {
    "Clock": "clock",
    "FakeProvider": "provider",
    "Received": "scripts",
    "Reply": "scripts",
    "Spent": "spending",
    "cost_at_most": "spending",
    "freeze_budgets": "budgets",
    "isolated_guard": "isolated",
    "spend": "spending",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
