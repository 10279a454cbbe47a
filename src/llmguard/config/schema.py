"""The whole configuration: one frozen model over all sections, and its JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from llmguard.config.auditing import Auditing
from llmguard.config.caching import Caching
from llmguard.config.rules import Alias, Budget, Limit, PriceOverride
from llmguard.config.sections import (
    WELL_KNOWN,
    OnDisconnect,
    Provider,
    SecretKeys,
    Section,
    Server,
    SpoolFiles,
    StoreDown,
    Streams,
    written,
)
from llmguard.config.types import Flag, Name, Url
from llmguard.config.watch import Alert, Runaway
from llmguard.core.call import UNATTRIBUTED
from llmguard.core.money import NANO
from llmguard.core.rules import ANY, PPM, BudgetRule, LimitRule
from llmguard.pricing import Origin, Override

UNATTRIBUTED_BUDGETS = (
    BudgetRule("unattributed-team", {"team": UNATTRIBUTED}, NANO, "usd", "day"),
    BudgetRule("unattributed-feature", {"team": ANY, "feature": UNATTRIBUTED}, NANO, "usd", "day"),
)
"""What holds without being written: calls without a team together, and calls without a feature in each team, may cost
$1 a day. A budget of one's own with the same scope, in money, takes the place of either."""

DEFAULT_ALERT_PPM = (PPM * 80 // 100, PPM)
"""Shares of a limit that alerts hear of where a budget names none: 80% and 100%."""


class Config(Section):
    """A whole configuration, checked. ``development`` is set when none was given."""

    later: ClassVar[Mapping[str, str]] = {
        "auth": "remove the section, and give callers keys: llmguard keys create",
    }

    server: Server = Field(default_factory=Server, description="Where the gateway listens.", examples=[{"port": 8080}])
    store: Url = Field(written("memory://"), description="Quota store.", examples=["redis://localhost:6379/0"])
    ledger: Url = Field(
        written("sqlite:///llmguard.db"),
        validate_default=True,
        description="SQL ledger.",
        examples=["postgresql://localhost/llmguard"],
    )
    secrets: SecretKeys = Field(
        default_factory=SecretKeys, description="Secrets of the guard.", examples=[{"pepper": "${LLMGUARD_PEPPER}"}]
    )
    spool: SpoolFiles = Field(
        default_factory=SpoolFiles, description="Local records of spend.", examples=[{"path": "./spool"}]
    )
    providers: dict[Name, Provider] = Field(
        {},
        description="Providers by name.",
        examples=[{"openai": {"dialect": "openai", "keys": ["${OPENAI_API_KEY}"]}}],
    )
    models: dict[str, Alias] = Field(
        {}, description="Model names callers may use.", examples=[{"smart": "openai/gpt-4o"}]
    )
    prices: dict[str, PriceOverride] = Field(
        {}, description="Prices by provider/model pattern.", examples=[{"local/*": {"input": "$1/M", "output": "$4/M"}}]
    )
    budgets: tuple[Budget, ...] = Field((), strict=False, description="Caps on money and tokens.", examples=[[]])
    limits: tuple[Limit, ...] = Field((), strict=False, description="Caps on rates and concurrency.", examples=[[]])
    unknown_model: Literal["charge", "refuse"] = Field(
        "charge",
        description="Charge a model without a known price at the dearest one, or refuse it.",
        examples=["charge"],
    )
    clamp: Flag = Field(True, description="Lower max_tokens where only the worst case does not fit.", examples=[True])
    streams: Streams = Field(
        default_factory=Streams, description="Running streams.", examples=[{"on_disconnect": "cancel"}]
    )
    gateway: Url | None = Field(
        None,
        description="Origin of a gateway of yours: guarded clients only sign calls to it.",
        examples=["https://llm.corp.example"],
    )
    alerts: tuple[Alert, ...] = Field(
        (),
        strict=False,
        description="Webhooks that hear of budgets, trips and drift.",
        examples=[[{"url": "https://hooks.example.com/x"}]],
    )
    store_down: StoreDown = Field(
        default_factory=StoreDown, description="While the quota store is away.", examples=[{"budget": "$0.50"}]
    )
    runaway: Runaway = Field(
        default_factory=Runaway, description="Callers that repeat themselves.", examples=[{"mode": "warn"}]
    )

    cache: Caching = Field(
        default_factory=Caching,
        description="Replies that answer the same call again.",
        examples=[{"exact": {"ttl": "1h"}}],
    )

    audit: Auditing = Field(
        default_factory=Auditing, description="What is kept of prompts and replies.", examples=[{"payloads": "off"}]
    )

    _development: bool = PrivateAttr(False)

    @property
    def development(self) -> bool:
        """True when no configuration was given: loopback only, the sandbox provider, keys from the environment."""
        return self._development

    @property
    def budget_rules(self) -> tuple[BudgetRule, ...]:
        """Every budget in force, those that hold without being written included (:data:`UNATTRIBUTED_BUDGETS`)."""
        heard = any("budget" in alert.on for alert in self.alerts)
        alert_ppm = DEFAULT_ALERT_PPM if heard else ()
        own = tuple(budget.rule(alert_ppm) for budget in self.budgets)
        scopes = [rule.scope for rule in own if rule.unit == "usd"]
        unwritten = (replace(rule, alert_ppm=alert_ppm) for rule in UNATTRIBUTED_BUDGETS if rule.scope not in scopes)
        return own + tuple(unwritten)

    @property
    def limit_rules(self) -> tuple[LimitRule, ...]:
        """Every limit in force."""
        return tuple(limit.rule for limit in self.limits)

    @property
    def origins(self) -> dict[str, Origin]:
        """Every reachable provider as :class:`llmguard.pricing.Catalog` takes it."""
        return {name: Origin(provider.dialect, provider.address) for name, provider in self.reachable.items()}

    @property
    def reachable(self) -> dict[str, Provider]:
        """The configured providers, and the well-known ones that code inside a process may call all the same.

        Where a configured provider has the name of a well-known one but another address, the latter is `…-direct`.
        """
        providers = dict(self.providers)
        addresses = {provider.address for provider in self.providers.values()}
        for name, provider in WELL_KNOWN.items():
            if provider.address not in addresses:
                providers[f"{name}-direct" if name in providers else name] = provider
        return providers

    @property
    def overrides(self) -> tuple[Override, ...]:
        """Every line of `prices` as :class:`llmguard.pricing.Catalog` takes it."""
        return tuple(line.override(pattern) for pattern, line in self.prices.items())

    def on_disconnect(self, provider: str) -> OnDisconnect:
        """What to do with a stream to this provider whose caller hangs up."""
        return self.providers[provider].on_disconnect or self.streams.on_disconnect


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration file, for editors and `llmguard config schema`."""
    schema = Config.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "llmguard.yaml"}
