"""What is written down about a call: the ledger entry, and the records of the spool it travels in."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """Kinds of spool record. Only SETTLE becomes a row."""

    HOLD = 1
    SENT = 2
    PARTIAL = 3
    SETTLE = 4
    VOID = 5


class Entry(NamedTuple):
    """One ledger row, in column order: spool payload and SQL parameters alike, never copied field by field.

    Times are epoch milliseconds UTC. Amounts are nano-USD. ``metadata`` is JSON text. ``kind`` is `POST` or `ADJUST`;
    ``rev`` the usage source's revision (see :class:`llmguard.core.usage.Source`). ``model`` is the target's, by which
    budgets count, whatever alias was requested and whatever version served; "" in records older than the field.
    """

    event_id: str
    attempt_id: str
    kind: str
    rev: int
    created_at: int
    org: str
    team: str
    env: str
    feature: str
    end_user: str | None
    principal: str | None
    key_id: str | None
    task_id: str | None
    tree_id: str | None
    trace_id: str | None
    provider: str
    model_requested: str
    model_served: str | None
    dialect: str
    endpoint: str
    stream: bool
    status: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost_nano: int
    cost_input_nano: int
    cost_output_nano: int
    saved_nano: int
    estimate_nano: int
    cap_nano: int
    usage_source: str
    price_version: str
    cache: str | None
    finish_reason: str | None
    latency_ms: int
    ttft_ms: int | None
    bytes_in: int
    bytes_out: int
    interrupted: str | None
    metadata: str | None
    model: str = ""


class BucketCharge(NamedTuple):
    """What a record charges to one bucket of the store, so that it can be settled without its reservation.

    ``unit`` is `usd`, `tokens` or `calls` (concurrency: charged 0).
    """

    name: str
    unit: str
    amount: int
    window_end: int


class HoldRecord(NamedTuple):
    """Written before the reservation: an entry as it will stand if nothing more is heard (usage source `hold`).

    ``fixed_nano`` and ``output_femto`` price an interrupted call from its last PARTIAL: cost = fixed + tokens × rate.
    """

    entry: Entry
    buckets: tuple[BucketCharge, ...]
    fixed_nano: int
    output_femto: int


class SentRecord(NamedTuple):
    """Written just before the first byte goes upstream."""

    event_id: str
    attempt_id: str


class PartialRecord(NamedTuple):
    """How far a running stream has come: estimated output tokens and cost so far."""

    event_id: str
    output_tokens: int
    cost_nano: int


class SettleRecord(NamedTuple):
    """The end of one attempt. ``objects`` are (object kind, id) pairs that the reply created at the provider."""

    entry: Entry
    buckets: tuple[BucketCharge, ...]
    objects: tuple[tuple[str, str], ...] = ()
    deleted: tuple[tuple[str, str], ...] = ()


class VoidRecord(NamedTuple):
    """The call was refused or never sent: its HOLD means nothing."""

    event_id: str


Record = HoldRecord | SentRecord | PartialRecord | SettleRecord | VoidRecord
