"""Tables of the ledger. All are named `llmguard_*`, so that they can live in another application's database.

Amounts are integer nano-USD, times epoch milliseconds UTC. The readable face of :data:`entries` is the view
`ledger_entries`, which the migrations create.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from llmguard.core.records import Entry

metadata = sa.MetaData()

# SQLite has no uuid type; there ids are text, as they are in the spool.
Uuid = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")

QUARTER_MS = 15 * 60 * 1000
"""Length of a rollup: a quarter of an hour, because some time zones are half hours off."""


def _table(name: str, *columns: Any) -> sa.Table:
    """A table clustered by its primary key (SQLite keeps no hidden row id beside it)."""
    return sa.Table(name, metadata, *columns, sqlite_with_rowid=False)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


# The first columns are those of Entry, in its order. `calls` is 1 on the first row of a call and 0 on its other rows,
# so that sums of it count distinct calls. `charges` is the msgpack list of the record's bucket charges.
entries = _table(
    "llmguard_entries",
    sa.Column("event_id", Uuid, primary_key=True),
    sa.Column("attempt_id", Uuid, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("rev", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("org", sa.Text, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("env", sa.Text, nullable=False),
    sa.Column("feature", sa.Text, nullable=False),
    sa.Column("end_user", sa.Text),
    sa.Column("principal", sa.Text),
    sa.Column("key_id", sa.Text),
    sa.Column("task_id", sa.Text),
    sa.Column("tree_id", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model_requested", sa.Text, nullable=False),
    sa.Column("model_served", sa.Text),
    sa.Column("dialect", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("status", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("cost_nano", sa.BigInteger, nullable=False),
    sa.Column("cost_input_nano", sa.BigInteger, nullable=False),
    sa.Column("cost_output_nano", sa.BigInteger, nullable=False),
    sa.Column("saved_nano", sa.BigInteger, nullable=False),
    sa.Column("estimate_nano", sa.BigInteger, nullable=False),
    sa.Column("cap_nano", sa.BigInteger, nullable=False),
    sa.Column("usage_source", sa.Text, nullable=False),
    sa.Column("price_version", sa.Text, nullable=False),
    sa.Column("cache", sa.Text),
    sa.Column("finish_reason", sa.Text),
    sa.Column("latency_ms", sa.BigInteger, nullable=False),
    sa.Column("ttft_ms", sa.BigInteger),
    sa.Column("bytes_in", sa.BigInteger, nullable=False),
    sa.Column("bytes_out", sa.BigInteger, nullable=False),
    sa.Column("interrupted", sa.Text),
    sa.Column("metadata", sa.Text),
    sa.Column("model", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("calls", sa.SmallInteger, nullable=False),
    sa.Column("charges", sa.LargeBinary, nullable=False),
    sa.Index("llmguard_entries_created_at", "created_at"),
)
COLUMNS = tuple(column.name for column in entries.columns)
# Rows are passed to SQL by position.
assert (*Entry._fields, "calls", "charges") == COLUMNS


def model_of(columns: Any) -> Any:
    """The model that an entry counts for: its target's, for entries older than that column the one that served it."""
    served = sa.func.nullif(columns.model_served, "")
    return sa.func.coalesce(sa.func.nullif(columns.model, ""), served, columns.model_requested)


rollups = _table(
    "llmguard_rollups",
    sa.Column("bucket_start", sa.BigInteger, primary_key=True, autoincrement=False),
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("org", "team", "env", "feature", "key_id")),
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("provider", "model")),
    _count("calls"),
    _count("input_tokens"),
    _count("output_tokens"),
    _count("cached_input_tokens"),
    _count("cache_write_tokens"),
    _count("reasoning_tokens"),
    _count("cost_nano"),
    _count("saved_nano"),
)

refusals = _table(
    "llmguard_refusals",
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("org", "team", "env", "feature", "code")),
    _count("refused"),
)

# `changed` is the value of the `keys` version at the key's last change. Secrets are HMACs; the previous one is honoured
# until `previous_until`.
keys = _table(
    "llmguard_keys",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("org", sa.Text, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("env", sa.Text, nullable=False),
    sa.Column("feature", sa.Text, nullable=False),
    sa.Column("budget", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("secret_hmac", sa.LargeBinary, nullable=False),
    sa.Column("previous_hmac", sa.LargeBinary),
    sa.Column("previous_until", sa.BigInteger),
    sa.Column("changed", sa.BigInteger, nullable=False, index=True),
)

# Counters that only grow, one per kind of thing that processes keep a copy of.
versions = _table(
    "llmguard_versions",
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

objects = _table(
    "llmguard_objects",
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("org", sa.Text, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("event_id", Uuid),
)

# How far each spool has been shipped: the sequence number of the last record whose rows are committed.
spools = _table(
    "llmguard_spools",
    sa.Column("spool", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

# The audit trail: what changed power or money, each record chained to the one before it (see :mod:`.audit`).
audit = _table(
    "llmguard_audit",
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("actor", "action", "subject", "details")),
    sa.Column("prev", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

# The trail's last record once more, under a seal of its own: one row, with id 0.
audit_head = _table(
    "llmguard_audit_head",
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("hash", "seal")),
)

trips = _table(
    "llmguard_trips",
    sa.Column("id", Uuid, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("scope", "name", "rule")),
    sa.Column("allowed", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("org", "team", "env", "feature")),
    *(sa.Column(name, sa.Text) for name in ("task", "task_id", "tree_id")),
    sa.Column("cost_nano", sa.BigInteger, nullable=False),
    sa.Column("reset_at", sa.BigInteger),
    sa.Column("reset_by", sa.Text),
    sa.Index("llmguard_trips_at", "at"),
    sa.Index("llmguard_trips_name", "name"),
)

# Messages of stopped tasks. `requeued_as` is the new run's task id, chosen when the letter is claimed; the claim ends
# with `published_at`.
dead_letters = _table(
    "llmguard_dead_letters",
    sa.Column("id", Uuid, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("task", "task_id")),
    sa.Column("tree_id", sa.Text),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("org", "team", "env", "feature", "rule", "reason")),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("content_type", "content_encoding")),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("requeued_at", sa.BigInteger),
    sa.Column("requeued_by", sa.Text),
    sa.Column("requeued_as", sa.Text),
    sa.Column("published_at", sa.BigInteger),
    sa.Index("llmguard_dead_letters_at", "at"),
)

# What calls said and heard, where the configuration asks for it.
payloads = _table(
    "llmguard_payloads",
    sa.Column("event_id", Uuid, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("org", "team", "prompt", "reply")),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("prompt_bytes", "reply_bytes")),
    sa.Column("redacted", sa.Boolean, nullable=False),
    sa.Index("llmguard_payloads_at", "at"),
)
