"""Guardrails for LLM spend.

Importing this package costs next to nothing: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmguard.errors import (
        BudgetExceeded,
        ConfigError,
        GuardUnavailable,
        LLMGuardError,
        RateLimited,
        RunawayTripped,
        TaskAborted,
    )
    from llmguard.guard import Guard, configure, get_guard
    from llmguard.integrations.asgi import create_app
    from llmguard.integrations.httpx import (
        Refusal,
        Report,
        async_http_client,
        http_client,
        instrument,
        refusal,
        uninstrument,
    )
    from llmguard.integrations.wsgi import wsgi_app
    from llmguard.runtime.context import checkpoint, context

__all__ = [
    "BudgetExceeded",
    "ConfigError",
    "Guard",
    "GuardUnavailable",
    "LLMGuardError",
    "RateLimited",
    "Refusal",
    "Report",
    "RunawayTripped",
    "TaskAborted",
    "async_http_client",
    "checkpoint",
    "configure",
    "context",
    "create_app",
    "get_guard",
    "http_client",
    "instrument",
    "refusal",
    "uninstrument",
    "wsgi_app",
]

_HOMES = {
    "BudgetExceeded": "llmguard.errors",
    "ConfigError": "llmguard.errors",
    "Guard": "llmguard.guard",
    "GuardUnavailable": "llmguard.errors",
    "LLMGuardError": "llmguard.errors",
    "RateLimited": "llmguard.errors",
    "Refusal": "llmguard.integrations.httpx",
    "Report": "llmguard.integrations.httpx",
    "RunawayTripped": "llmguard.errors",
    "TaskAborted": "llmguard.errors",
    "async_http_client": "llmguard.integrations.httpx",
    "checkpoint": "llmguard.runtime.context",
    "configure": "llmguard.guard",
    "context": "llmguard.runtime.context",
    "create_app": "llmguard.integrations.asgi",
    "get_guard": "llmguard.guard",
    "http_client": "llmguard.integrations.httpx",
    "instrument": "llmguard.integrations.httpx",
    "refusal": "llmguard.integrations.httpx",
    "uninstrument": "llmguard.integrations.httpx",
    "wsgi_app": "llmguard.integrations.wsgi",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
