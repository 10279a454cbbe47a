"""Sections about the gateway itself and its providers. Every field says what it is and shows a right value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from llmguard.config import units
from llmguard.config.types import Bytes, Flag, Frequency, Milliseconds, Money, Several, Url, Whole, between
from llmguard.core.outage import OutageTerms

Family = Literal["openai", "anthropic", "gemini", "sandbox"]
OnDisconnect = Literal["cancel", "drain"]
TimeLimit = Annotated[Milliseconds, between(units.duration, "1ms", "24h")]


def written(text: str) -> Any:
    """A default as a person writes it: the field's own parser reads it."""
    return text


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, hide_input_in_errors=True
    )

    later: ClassVar[Mapping[str, str]] = {}
    """Keys (`alert_at`) and values (`mode: shadow`) that this version does not have, and what to do instead."""


class Server(Section):
    """Where the gateway listens."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.", examples=["127.0.0.1"])
    port: Whole = Field(8080, ge=1, le=65535, description="TCP port.", examples=[8080])
    workers: Whole = Field(1, ge=1, le=256, description="Processes that serve.", examples=[1])
    max_body: Annotated[Bytes, between(units.size, "1KiB", "64MiB")] = Field(
        written("10MiB"), description="Largest request body.", examples=["10MiB"]
    )
    drain: Annotated[Milliseconds, between(units.duration, "0s", "1h")] = Field(
        written("30s"), description="How long running calls may take to end on SIGTERM.", examples=["30s"]
    )


class SecretKeys(Section):
    """Secrets of the guard itself. Lists rotate: the first one writes, all of them read."""

    pepper: SecretStr | None = Field(
        None, description="HMAC key for stored virtual keys.", examples=["${LLMGUARD_PEPPER}"]
    )
    signing: Annotated[tuple[SecretStr, ...], Several] = Field(
        (),
        strict=False,
        description="Keys that sign the context between processes.",
        examples=[["${LLMGUARD_SIGNING_KEY}"]],
    )
    cache: Annotated[tuple[SecretStr, ...], Several] = Field(
        (), strict=False, description="Keys that encrypt cached replies.", examples=[["${LLMGUARD_CACHE_KEY}"]]
    )

    @property
    def complete(self) -> bool:
        """Whether each purpose has a secret."""
        return self.pepper is not None and bool(self.signing) and bool(self.cache)


class SpoolFiles(Section):
    """Where spend is written down before a reply ends."""

    later: ClassVar[Mapping[str, str]] = {
        "durability: strict": "write standard, which survives kill -9 but no power cut"
    }

    path: str = Field("./spool", min_length=1, description="Directory, on a local disk.", examples=["./spool"])
    durability: Literal["standard"] = Field(
        "standard", description="`standard` survives kill -9.", examples=["standard"]
    )
    quota: Annotated[Bytes, between(units.size, "64MiB", "1000GiB")] = Field(
        written("1GiB"), description="Room for records of one process.", examples=["1GiB"]
    )


class TimeLimits(Section):
    """How long each stage of a call to a provider may take."""

    connect: TimeLimit = Field(written("5s"), description="DNS, TCP and all addresses tried.", examples=["5s"])
    queue: TimeLimit = Field(written("5s"), description="Waiting for a free connection.", examples=["5s"])
    first_byte: TimeLimit = Field(written("10m"), description="Until the reply's head.", examples=["10m"])
    silence: TimeLimit = Field(written("5m"), description="Between two reads of a reply.", examples=["5m"])
    total: TimeLimit = Field(written("1h"), description="The whole call.", examples=["1h"])


class Provider(Section):
    """One provider: whom it speaks like, where it is, and the keys that only it may see."""

    later: ClassVar[Mapping[str, str]] = {
        "dialect: bedrock": "write openai, anthropic or gemini",
        "dialect: vertex": "write gemini",
    }

    dialect: Family = Field(description="Family of its API.", examples=["openai"])
    base_url: Url | None = Field(
        None,
        description="Address of its API; known for the families' own providers.",
        examples=["https://api.openai.com/v1"],
    )
    keys: Annotated[tuple[SecretStr, ...], Several] = Field(
        (), strict=False, description="Its API keys; several take turns.", examples=[["${OPENAI_API_KEY}"]]
    )
    default: Flag = Field(False, description="Takes the unlisted model names of its family.", examples=[True])
    internal: Flag = Field(False, description="May be on a private address and speak plain HTTP.", examples=[True])
    passthrough: Money | None = Field(
        None, description="Price of a request that cannot be metered; without it those are refused.", examples=["$0.01"]
    )
    timeouts: TimeLimits = Field(
        default_factory=TimeLimits, description="Limits per stage.", examples=[{"first_byte": "2m"}]
    )
    max_connections: Whole = Field(512, ge=1, le=65_536, description="Connections of one process.", examples=[512])
    max_waiting: Whole = Field(1024, ge=0, le=65_536, description="Calls that may wait for one.", examples=[1024])
    proxy: Url | None = Field(None, description="HTTP proxy to go out by.", examples=["http://proxy.example:3128"])
    http2: Flag = Field(False, description="Speak HTTP/2 to it.", examples=[True])
    on_disconnect: OnDisconnect | None = Field(
        None, description="Overrides `streams.on_disconnect` for this provider.", examples=["drain"]
    )

    @property
    def address(self) -> str | None:
        """The base URL, configured or the family's own; None for the sandbox."""
        return self.base_url or BASE_URLS.get(self.dialect)


BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}

WELL_KNOWN: Mapping[str, Provider] = {
    "openai": Provider(dialect="openai"),
    "anthropic": Provider(dialect="anthropic"),
    "gemini": Provider(dialect="gemini"),
    "azure": Provider(dialect="openai", base_url=written("https://*.openai.azure.com")),
    "vertex": Provider(dialect="gemini", base_url=written("https://*aiplatform.googleapis.com")),
}
"""Where the official SDKs go by themselves, and the names by which that is known where no provider is configured."""


class StoreDown(Section):
    """What each process may do on its own in all while the quota store is away, where rules say `local`."""

    budget: Money = Field(written("$0.50"), description="Money in one outage.", examples=["$0.50"])
    calls: Frequency = Field(written("30/1m"), description="Calls.", examples=["30/1m"])
    tasks_for: Milliseconds = Field(written("15m"), description="Tasks wait when it lasts longer.", examples=["15m"])

    @property
    def terms(self) -> OutageTerms:
        """As the core takes it."""
        return OutageTerms(self.budget, self.calls.number, self.calls.period_ms, self.tasks_for)


class Streams(Section):
    """What happens to running streams."""

    on_disconnect: OnDisconnect = Field(
        "cancel",
        description="When the caller hangs up: `cancel` closes upstream, `drain` reads on to the usage.",
        examples=["cancel"],
    )
