"""The guard for ASGI servers and frameworks: FastAPI, Starlette, Django, or none."""

from __future__ import annotations

from llmguard.integrations.asgi.app import Lifespan, create_app

__all__ = ["Lifespan", "create_app"]
