"""The gateway of a started service."""

from __future__ import annotations

from llmguard.core.edge import EdgeLimits
from llmguard.forward.routing import ANY_FAMILY
from llmguard.guard import Guard
from llmguard.providers.routes import RouteTable
from llmguard.proxy.app import Gateway, Local
from llmguard.proxy.models import ModelList
from llmguard.runtime.service import Service


def build_gateway(guard: Guard, service: Service, local: Local) -> Gateway:
    """Routes, dialects and relay put together from one configuration."""
    config = guard.config
    families = {name: provider.dialect for name, provider in config.providers.items()}
    routes = RouteTable({name: "openai" if family == ANY_FAMILY else family for name, family in families.items()})
    names = [(alias, entry.target.provider) for alias, entry in config.models.items()]
    return Gateway(
        guard.relay(service),
        routes,
        local,
        EdgeLimits(body=config.server.max_body),
        ModelList(names),
    )
