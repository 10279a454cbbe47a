"""Sections about models, prices, budgets and limits, and how each becomes what the rooms below take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from llmguard.config import units
from llmguard.config.sections import Section, written
from llmguard.config.types import Allowance, Money, Name, Pace, PerToken, Scope, Share, Whole, Zone, between
from llmguard.config.units import Wrong
from llmguard.core.money import FEMTO_PER_NANO, Price, Rates
from llmguard.core.outage import WhenStoreDown
from llmguard.core.rules import BudgetRule, LimitRule
from llmguard.pricing import Override


class ModelTarget(Section):
    """A model at a provider."""

    provider: Name = Field(description="A name under `providers`.", examples=["openai"])
    model: str = Field(min_length=1, max_length=256, description="The provider's own name for it.", examples=["gpt-4o"])


class Alias(Section):
    """A model name that callers may use."""

    later: ClassVar[Mapping[str, str]] = {
        "strategy": "name one target and no strategy, such as smart: openai/gpt-4o",
    }

    targets: tuple[ModelTarget, ...] = Field(
        strict=False, min_length=1, description="Where it goes.", examples=[[{"provider": "openai", "model": "gpt-4o"}]]
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A string `provider/model` is as good as the long form."""
        return {"anyOf": [{"type": "string", "pattern": "^[^/]+/.+$"}, handler(schema)]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        provider, slash, model = value.partition("/")
        if not (provider and slash and model):
            raise Wrong("not a model at a provider", "write provider/model, such as openai/gpt-4o")
        return {"targets": [{"provider": provider, "model": model}]}

    @model_validator(mode="after")
    def _single(self) -> Alias:
        if len(self.targets) > 1:
            raise Wrong(
                "an alias with several targets, between which this version cannot choose",
                f"keep one: {self.targets[0].provider}/{self.targets[0].model}",
            )
        return self

    @property
    def target(self) -> ModelTarget:
        """Where calls for this name go."""
        return self.targets[0]


class PriceOverride(Section):
    """Prices and limits laid over the shipped catalog for the models that a pattern names.

    A price replaces the catalog's rates as a whole: what it does not name is priced as the kind it is part of. Searches
    of a model that the catalog lists keep their fees, and a dear tier of service costs as many times more as there.
    """

    input: PerToken | None = Field(None, description="Price of input.", examples=["$1/M"])
    output: PerToken | None = Field(None, description="Price of output; as input where not given.", examples=["$4/M"])
    cached_input: PerToken | None = Field(None, description="Price of cached input.", examples=["$0.1/M"])
    cache_write: PerToken | None = Field(None, description="Price of writing the cache.", examples=["$1.25/M"])
    cache_write_1h: PerToken | None = Field(None, description="The same, kept for an hour.", examples=["$2/M"])
    input_audio: PerToken | None = Field(None, description="Price of audio input.", examples=["$32/M"])
    output_audio: PerToken | None = Field(None, description="Price of audio output.", examples=["$64/M"])
    request: Money | None = Field(None, description="Price of a request as such.", examples=["$0.01"])
    output_max: Whole | None = Field(None, ge=0, le=10**8, description="Longest reply in tokens.", examples=[8192])
    context: Whole | None = Field(None, ge=1, le=10**9, description="Context window in tokens.", examples=[128000])

    @model_validator(mode="after")
    def _complete(self) -> PriceOverride:
        named = self.model_fields_set
        if self.input is None and named - {"output_max", "context"}:
            raise Wrong("a price without `input`", "write all of it, such as {input: $1/M, output: $4/M}")
        if not named:
            raise Wrong("empty", "write {input: $1/M, output: $4/M}, or leave the line out")
        return self

    def override(self, pattern: str) -> Override:
        """As the catalog takes it."""
        return Override(pattern, self._price(), self.output_max, self.context)

    def _price(self) -> Price | None:
        if self.input is None:
            return None
        rates = Rates(
            self.input,
            self.input if self.output is None else self.output,
            cached_input=self.cached_input,
            cache_write=self.cache_write,
            cache_write_1h=self.cache_write_1h,
            input_audio=self.input_audio,
            output_audio=self.output_audio,
        )
        return Price(rates, "config", per_request=(self.request or 0) * FEMTO_PER_NANO)


_WHEN_STORE_DOWN: Any = Field(
    "local",
    description="While the quota store is away: `local` lets calls go on the allowance of `store_down`, `deny` refuses"
    " them, `allow` lets them go.",
    examples=["deny"],
)


class Budget(Section):
    """A cap on money or tokens over a window."""

    later: ClassVar[Mapping[str, str]] = {
        "window: rolling": "write hour, day, week or month",
        "mode: shadow": "write enforce, or remove the budget",
        "mode: warn": "write enforce, or remove the budget",
    }

    name: Name = Field(description="What refusals call it.", examples=["search-hourly"])
    scope: Scope = Field(description="Whom it holds for.", examples=[{"team": "search", "env": "prod"}])
    limit: Allowance = Field(description="Money or tokens.", examples=["$50", "2M tokens"])
    window: Literal["hour", "day", "week", "month", "total"] = Field(
        description="Calendar window in `timezone`; `total` never starts anew.", examples=["day"]
    )
    timezone: Zone = Field("UTC", description="Where its days begin.", examples=["Europe/Berlin"])
    mode: Literal["enforce"] = Field("enforce", description="What happens at the limit.", examples=["enforce"])
    overshoot: Share = Field(
        written("10%"), description="How far the worst case may pass the limit; 0 is strict.", examples=["10%"]
    )
    alert_at: tuple[Annotated[Share, between(units.share, "1%", "100%")], ...] | None = Field(
        None,
        strict=False,
        max_length=8,
        description="Shares of the limit at which `alerts` are told, once a window each. 80% and 100% where any of them"
        " listens to budgets.",
        examples=[["50%", "80%", "100%"]],
    )
    when_store_down: WhenStoreDown = _WHEN_STORE_DOWN

    def rule(self, alert_ppm: tuple[int, ...]) -> BudgetRule:
        """As the core takes it; ``alert_ppm`` where it names no shares of its own."""
        return BudgetRule(
            self.name,
            self.scope,
            self.limit.number,
            self.limit.unit,
            self.window,
            self.timezone,
            self.overshoot,
            self.mode,
            alert_ppm if self.alert_at is None else self.alert_at,
            when_store_down=self.when_store_down,
        )


class Limit(Section):
    """A cap on requests, tokens or concurrent calls over a short time."""

    name: Name = Field(description="What refusals call it.", examples=["rpm"])
    scope: Scope = Field(description="Whom it holds for.", examples=[{"key": "*"}])
    limit: Pace = Field(description="How much.", examples=["600/minute", "100k tokens/minute", "50 concurrent"])
    when_store_down: WhenStoreDown = _WHEN_STORE_DOWN

    @property
    def rule(self) -> LimitRule:
        """As the core takes it."""
        limit = self.limit
        return LimitRule(self.name, self.scope, limit.kind, limit.number, limit.period_ms, self.when_store_down)
