"""The guard for WSGI servers and frameworks, on blocking calls throughout."""

from __future__ import annotations

from llmguard.integrations.wsgi.app import WsgiApplication, wsgi_app

__all__ = ["WsgiApplication", "wsgi_app"]
