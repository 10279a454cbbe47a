"""The guard for ASGI servers and frameworks: FastAPI, Starlette, Django, or none."""

from __future__ import annotations

from llmguard.integrations.asgi.app import Lifespan, create_app
from llmguard.integrations.asgi.context import ContextMiddleware
from llmguard.integrations.asgi.layers import Audit, Authn, Cache, Meter, Quota
from llmguard.integrations.layers import LLM_ROUTES

__all__ = [
    "LLM_ROUTES",
    "Audit",
    "Authn",
    "Cache",
    "ContextMiddleware",
    "Lifespan",
    "Meter",
    "Quota",
    "create_app",
]
