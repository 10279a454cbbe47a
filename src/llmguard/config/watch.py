"""Sections about what is watched: where alerts go, and callers that run away."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmguard.config.sections import Section, written
from llmguard.config.types import Flag, Frequency, Money, SecretUrl, Several, Url, Whole
from llmguard.stages.runaway import RunawayPolicy

AlertKind = Literal["budget", "trip", "drift"]


class Alert(Section):
    """A webhook that is told of what an operator should look at."""

    url: SecretUrl = Field(
        description="Where to POST it. Treated as a secret.", examples=["https://hooks.example.com/x"]
    )
    on: Annotated[tuple[AlertKind, ...], Several] = Field(
        ("budget", "trip", "drift"),
        strict=False,
        description="What to tell: a budget's threshold reached, a runaway stopped, store and ledger apart.",
        examples=[["budget", "trip"]],
    )
    internal: Flag = Field(False, description="May be on a private address and speak plain HTTP.", examples=[True])
    proxy: Url | None = Field(None, description="HTTP proxy to go out by.", examples=["http://proxy.example:3128"])


class Runaway(Section):
    """Limits on callers that are no Celery task: web requests, scripts, and whoever calls the gateway."""

    mode: Literal["off", "warn", "enforce"] = Field(
        "warn", description="`warn` only tells of it, `enforce` also stops the caller.", examples=["warn"]
    )
    identical_prompts: Frequency = Field(
        written("20/10m"), description="Calls of one feature with the very same body.", examples=["20/10m"]
    )
    similar_prompts: Frequency = Field(
        written("200/10m"),
        description="The same, where digits, ids and dates do not count as a difference.",
        examples=["200/10m"],
    )
    tree_calls: Whole = Field(
        2_000, ge=1, le=10**9, description="Calls of one request and all it started.", examples=[2000]
    )
    tree_budget: Money = Field(written("$50"), description="What they may cost together.", examples=["$50"])
    velocity: Whole = Field(
        10, ge=0, le=10**6, description="Warn at so many times a feature's usual pace; 0 watches none.", examples=[10]
    )

    @property
    def policy(self) -> RunawayPolicy:
        """As the stage takes it."""
        same, alike = self.identical_prompts, self.similar_prompts
        return RunawayPolicy(
            self.mode,
            (same.number, same.period_ms),
            (alike.number, alike.period_ms),
            self.tree_calls,
            self.tree_budget,
            self.velocity,
        )
