"""The section about what is kept of calls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmguard.config import units
from llmguard.config.sections import Section, written
from llmguard.config.types import Bytes, Expression, Milliseconds, Several, between
from llmguard.stages.audit import AuditPolicy
from llmguard.stages.redaction import Redactor, as_it_came


class Auditing(Section):
    """What is kept of prompts and replies. The trail of changes is always kept."""

    payloads: Literal["off", "redacted", "full"] = Field(
        "off",
        description="Keep prompts and replies: not at all, without keys, e-mail addresses and card numbers, or whole.",
        examples=["redacted"],
    )
    max_bytes: Annotated[Bytes, between(units.size, "1KiB", "1MiB")] = Field(
        written("16KiB"), description="The most that is kept of a prompt, and of a reply.", examples=["16KiB"]
    )
    keep: Annotated[Milliseconds, between(units.duration, "1h", "3650d")] = Field(
        written("30d"), description="How long they are kept.", examples=["30d"]
    )
    redact: Annotated[tuple[Expression, ...], Several] = Field(
        (), strict=False, description="Regular expressions of what to mask besides.", examples=[[r"EMP-\d{6}"]]
    )

    @property
    def policy(self) -> AuditPolicy | None:
        """As the stage takes it; None: no stage."""
        if self.payloads == "off":
            return None
        redacted = self.payloads == "redacted"
        return AuditPolicy(self.max_bytes, Redactor(self.redact) if redacted else as_it_came, redacted)
