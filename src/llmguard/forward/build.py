"""From the configuration to upstreams and routing."""

from __future__ import annotations

from llmguard.config import Config, Provider, TimeLimits
from llmguard.errors import ConfigError, Problem
from llmguard.forward import routing
from llmguard.forward.engine import Engine
from llmguard.forward.options import Origin, PoolLimits, Timeouts
from llmguard.forward.pool import Pool
from llmguard.forward.sandbox import SandboxEngine
from llmguard.forward.upstreams import Upstream


def build_upstreams(config: Config) -> dict[str, Upstream]:
    """An upstream for every configured provider. Opens no connection."""
    return {name: _upstream(name, provider) for name, provider in config.providers.items()}


def build_routing(config: Config, *, inside: bool = False) -> routing.Routing:
    """Names to targets; for calls from ``inside`` a process, which say themselves where they go, all that can be
    reached."""
    providers = {
        name: routing.Provider(provider.dialect, provider.default, provider.passthrough)
        for name, provider in (config.reachable if inside else config.providers).items()
    }
    aliases = {name: (alias.target.provider, alias.target.model) for name, alias in config.models.items()}
    return routing.Routing(providers, aliases)


def _upstream(name: str, provider: Provider) -> Upstream:
    keys = [key.get_secret_value() for key in provider.keys]
    if provider.address is None:
        return Upstream(name, provider.dialect, SandboxEngine(), "", keys)
    origin = origin_of(name, provider.address, provider)
    return Upstream(name, provider.dialect, _engine(provider, origin), origin.base_path, keys)


def origin_of(name: str, address: str, provider: Provider) -> Origin:
    """Where a provider is. Raises ConfigError."""
    try:
        return Origin.parse(address, internal=provider.internal)
    except ValueError as error:
        fix = "write a base URL such as https://api.openai.com/v1"
        raise ConfigError([Problem(f"providers.{name}.base_url", str(error), fix)]) from error


def _engine(provider: Provider, origin: Origin) -> Engine:
    limits = PoolLimits(provider.max_connections, provider.max_waiting)
    if provider.proxy is not None or provider.http2:
        from llmguard.forward.httpx2_engine import Httpx2Engine  # noqa: PLC0415  memory that few processes need

        return Httpx2Engine(origin, limits, timeouts_of(provider.timeouts), proxy=provider.proxy, http2=provider.http2)
    return Pool(origin, limits, timeouts_of(provider.timeouts))


def timeouts_of(limits: TimeLimits) -> Timeouts:
    """A provider's time limits in seconds."""
    return Timeouts(
        connect=limits.connect / 1000,
        queue=limits.queue / 1000,
        first_byte=limits.first_byte / 1000,
        silence=limits.silence / 1000,
        total=limits.total / 1000,
    )
