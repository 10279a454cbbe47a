"""What a configuration decides about money and power, in plain values, for the audit trail."""

from __future__ import annotations

from typing import Any

from llmguard.config.schema import Config
from llmguard.config.written import written


def in_force(config: Config) -> dict[str, Any]:
    """Every rule by its name, as a person would write it: `budgets.NAME`, `limits.NAME`, `prices.PATTERN`, and the
    settings that loosen or tighten them."""
    rules: dict[str, Any] = {f"budgets.{budget.name}": written(budget) for budget in config.budgets}
    rules |= {f"limits.{limit.name}": written(limit) for limit in config.limits}
    rules |= {f"prices.{pattern}": written(price) for pattern, price in config.prices.items()}
    rules |= {name: written(getattr(config, name)) for name in ("store_down", "runaway", "audit")}
    return rules | {"settings": {"unknown_model": config.unknown_model, "clamp": config.clamp}}
