"""The three answers to a call. A refusal is a value; the call's dialect renders it in its own shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from llmguard.core.call import Edits


class Refuse(Struct, eq=False):
    """The call is not sent.

    ``code`` and ``status`` follow the table "What a refused caller hears". ``retry_after`` is seconds, ``None`` where
    waiting does not help. ``should_retry`` False becomes ``x-should-retry: false``, which the OpenAI and Anthropic SDKs
    obey. ``limit``, ``spent`` and ``held`` are integers in ``unit`` (`usd` as nano-USD, `tokens`, `requests`);
    ``reset_at`` is a UTC epoch in milliseconds.
    """

    code: str
    status: int
    message: str
    retry_after: int | None = None
    should_retry: bool | None = None
    rule: str | None = None
    scope: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    limit: int | None = None
    spent: int | None = None
    held: int | None = None
    reset_at: int | None = None
    param: str | None = None


class Target(Struct, frozen=True):
    """Where an admitted call goes: a configured provider and the model name it knows.

    ``fee_nano`` is what the provider's policy charges for a request that cannot be metered; None refuses those.
    """

    provider: str
    model: str
    fee_nano: int | None = None


NOWHERE = Target("", "")
"""The target of a call that has none yet."""


class Admit(Struct, eq=False):
    """The call goes to ``target`` with ``edits`` made to its body. ``headers`` go back to the caller."""

    target: Target
    edits: Edits
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class Replay(Struct, eq=False):
    """A stored reply answers the call; nothing goes upstream."""

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes]


Decision = Admit | Refuse | Replay
