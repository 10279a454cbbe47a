"""The section about kept replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from llmguard.config import units
from llmguard.config.sections import Section, written
from llmguard.config.types import Bytes, Milliseconds, Several, Url, between
from llmguard.core.cache import CachePolicy


class ExactCache(Section):
    """Answers a call with the reply that the very same call of the same team was given before."""

    ttl: Annotated[Milliseconds, between(units.duration, "1s", "365d")] = Field(
        written("1h"), description="How long a reply is kept.", examples=["1h"]
    )
    max_entry: Annotated[Bytes, between(units.size, "1KiB", "16MiB")] = Field(
        written("1MiB"), description="Largest reply that is kept.", examples=["1MiB"]
    )
    max_size: Annotated[Bytes, between(units.size, "1MiB", "1000GiB")] = Field(
        written("64MiB"), description="Room for all replies; the longest unused makes way.", examples=["64MiB"]
    )
    max_temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Leaves out calls of a higher temperature (1 where they name none).",
        examples=[0.5],
    )
    dialects: Annotated[tuple[str, ...], Several] = Field(
        (), strict=False, description="Leaves out all other dialects.", examples=[["openai_embeddings"]]
    )
    store: Url | None = Field(
        None, description="A store of its own; else that of the quotas.", examples=["redis://localhost:6379/1"]
    )

    @property
    def policy(self) -> CachePolicy:
        """As the stage takes it."""
        return CachePolicy(self.ttl, self.max_entry, self.max_temperature, frozenset(self.dialects))


class Caching(Section):
    """Kept replies. Without the section every call goes to its provider."""

    later: ClassVar[Mapping[str, str]] = {"semantic": "remove it: only the very same call is answered from the cache"}

    exact: ExactCache | None = Field(None, description="Replies to the very same call.", examples=[{"ttl": "1h"}])
