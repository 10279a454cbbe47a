"""What an operator should hear of: trips of the runaway guard and warnings before them, budgets, drift, forgery.

Handed to :class:`llmguard.runtime.notices.Notices`, in core code through the effect
:class:`~llmguard.core.effects.Notice`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmguard.core.call import DEFAULT_ORG, UNATTRIBUTED


@dataclass(frozen=True, slots=True)
class TripNote:
    """A rule of the runaway guard has stopped something (`tripped`), or would have, or soon will (`warned`).

    ``scope`` is `task`, `tree`, `name` (every task of one name) or `feature`; ``name`` is the trip's name in the quota
    store, such as `task:<key>`. ``seen`` reached ``limit``, both in ``unit``: `usd` is nano-USD, anything else a word
    for what is counted. ``task`` is the task's name. ``advice`` is a sentence for a warning: which option to set.
    ``at`` is epoch milliseconds, ``cost_nano`` what the unit of work has cost so far as this process knows.
    """

    scope: Literal["task", "tree", "name", "feature"]
    name: str
    rule: str
    limit: int
    seen: int
    at: int
    unit: str = "calls"
    kind: Literal["tripped", "warned"] = "tripped"
    org: str = DEFAULT_ORG
    team: str = UNATTRIBUTED
    env: str = UNATTRIBUTED
    feature: str = UNATTRIBUTED
    task: str | None = None
    task_id: str | None = None
    tree_id: str | None = None
    cost_nano: int = 0
    advice: str = ""


@dataclass(frozen=True, slots=True)
class BudgetNote:
    """Settled and orphaned amounts of a budget have reached one of its thresholds, the first time in this window.

    ``bucket`` is the store's name of what is counted, window included. Amounts are in ``unit`` (`usd`: nano-USD, or
    `tokens`). ``end`` is the window's end and ``at`` when it was seen, epoch milliseconds (``end`` 0: never).
    """

    bucket: str
    rule: str
    scope: Mapping[str, str] = field(hash=False)
    unit: str
    limit: int
    threshold: int
    window: str
    end: int
    at: int


@dataclass(frozen=True, slots=True)
class DriftNote:
    """Quota store and ledger went on to differ after they had been reconciled: ``calls`` were settled once more."""

    calls: int
    at: int


@dataclass(frozen=True, slots=True)
class ContextNote:
    """A signed context was not believed; what came with it went on under its bearer's own attribution.

    ``why`` is `forged`, `replayed` (it belongs to another message), `expired` or `foreign` (another team's).
    ``bearer`` is who sent it: `key <id>` or `task <name>`; ``org`` and ``team`` are what the bearer is charged to.
    """

    why: str
    bearer: str
    at: int
    org: str = DEFAULT_ORG
    team: str = UNATTRIBUTED


@dataclass(frozen=True, slots=True)
class PayloadNote:
    """What a call said and heard is to be kept.

    ``prompt`` and ``reply`` are the beginnings of bodies of ``prompt_bytes`` and ``reply_bytes``. ``clean`` makes text
    of them, of which ``max_bytes`` are kept; it may take its time, and is for another thread. ``at`` is epoch
    milliseconds.
    """

    event_id: str
    at: int
    org: str
    team: str
    prompt: bytes = field(repr=False)
    reply: bytes = field(repr=False)
    prompt_bytes: int
    reply_bytes: int
    max_bytes: int
    redacted: bool
    clean: Callable[[bytes], str] = field(repr=False)


Note = TripNote | BudgetNote | DriftNote | ContextNote | PayloadNote
