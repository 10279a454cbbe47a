"""The configuration: read, checked once, frozen. Pure apart from the files and variables it is given to read."""

from llmguard.config.loading import check, load
from llmguard.config.rules import Alias, Budget, Limit, ModelTarget
from llmguard.config.schema import UNATTRIBUTED_BUDGETS, Config, json_schema
from llmguard.config.secrets import Secrets, ensure_secrets
from llmguard.config.sections import Provider, TimeLimits
from llmguard.config.units import own_budget

__all__ = [
    "UNATTRIBUTED_BUDGETS",
    "Alias",
    "Budget",
    "Config",
    "Limit",
    "ModelTarget",
    "Provider",
    "Secrets",
    "TimeLimits",
    "check",
    "ensure_secrets",
    "json_schema",
    "load",
    "own_budget",
]
