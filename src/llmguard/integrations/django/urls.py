"""The gateway below a prefix: ``path("llm/", include("llmguard.integrations.django.urls"))``, under WSGI and ASGI."""

from __future__ import annotations

from llmguard.integrations.django.gateway import GatewayPattern

urlpatterns = [GatewayPattern()]
