"""From the configuration to engines for threads."""

from __future__ import annotations

from llmguard.config import Config, Provider
from llmguard.errors import ConfigError, Problem
from llmguard.forward.blocking.engine import Engine
from llmguard.forward.blocking.pool import BlockingPool
from llmguard.forward.blocking.sandbox import BlockingSandbox
from llmguard.forward.build import origin_of, timeouts_of
from llmguard.forward.options import PoolLimits


def build_engines(config: Config) -> dict[str, Engine]:
    """An engine for every configured provider. Opens no connection.

    Raises ConfigError for a provider that needs the second engine, which threads have not.
    """
    return {name: _engine(name, provider) for name, provider in config.providers.items()}


def _engine(name: str, provider: Provider) -> Engine:
    if provider.address is None:
        return BlockingSandbox()
    if provider.proxy is not None or provider.http2:
        fix = "leave out proxy and http2 here, or run `llmguard serve` and let this application call it"
        raise ConfigError([Problem(f"providers.{name}", "an outbound proxy and HTTP/2 need asyncio", fix)])
    limits = PoolLimits(provider.max_connections, provider.max_waiting)
    return BlockingPool(origin_of(name, provider.address, provider), limits, timeouts_of(provider.timeouts))
