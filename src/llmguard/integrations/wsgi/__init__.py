"""The guard for WSGI servers and frameworks, on blocking calls throughout."""

from __future__ import annotations

from llmguard.integrations.wsgi.app import WsgiApplication, wsgi_app
from llmguard.integrations.wsgi.context import ContextMiddleware
from llmguard.integrations.wsgi.layers import Audit, Authn, Cache, Meter, Quota

__all__ = ["Audit", "Authn", "Cache", "ContextMiddleware", "Meter", "Quota", "WsgiApplication", "wsgi_app"]
