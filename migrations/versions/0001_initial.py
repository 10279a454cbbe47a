"""The first schema: entries and their view, rollups, refusals, keys, objects and spool offsets.

What stands here is frozen. It repeats the models of its day instead of importing today's.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

UUID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")

VIEW = """
CREATE VIEW ledger_entries AS
SELECT event_id, attempt_id, kind, {created_at} AS created_at, org, team, env, feature, end_user, principal, key_id,
  task_id, tree_id, trace_id, provider, model_requested, model_served, dialect, endpoint, stream, status, input_tokens,
  output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost_nano, {cost_usd} AS cost_usd,
  saved_nano, usage_source, price_version, cache, finish_reason, latency_ms, ttft_ms
FROM llmguard_entries
"""
READABLE = {
    "sqlite": {
        "created_at": "strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch')",
        "cost_usd": "cost_nano / 1000000000.0",
    },
    "postgresql": {
        "created_at": "to_timestamp(created_at / 1000.0)",
        "cost_usd": "cost_nano * 0.000000001",
    },
}


def _texts(*names: str, primary_key: bool = False, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=primary_key, nullable=nullable) for name in names]


def _numbers(*names: str, nullable: bool = False, default: str | None = None) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=nullable, server_default=default) for name in names]


def _table(name: str, *columns: sa.Column[int] | sa.Column[str] | sa.Column[bool] | sa.Column[bytes]) -> None:
    op.create_table(name, *columns, sqlite_with_rowid=False)


def _start(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def upgrade() -> None:
    _entries()
    _table(
        "llmguard_rollups",
        _start("bucket_start"),
        *_texts("org", "team", "env", "feature", "key_id", "provider", "model", primary_key=True),
        *_numbers("calls", "input_tokens", "output_tokens", "cached_input_tokens", default="0"),
        *_numbers("cache_write_tokens", "reasoning_tokens", "cost_nano", "saved_nano", default="0"),
    )
    _table(
        "llmguard_refusals",
        _start("minute"),
        *_texts("org", "team", "env", "feature", "code", primary_key=True),
        *_numbers("refused", default="0"),
    )
    _keys()
    _table("llmguard_versions", *_texts("name", primary_key=True), *_numbers("value"))
    _table(
        "llmguard_objects",
        *_texts("provider", "kind", "id", primary_key=True),
        *_texts("org", "team"),
        *_numbers("created_at"),
        sa.Column("event_id", UUID),
    )
    _table("llmguard_spools", *_texts("spool", primary_key=True), *_numbers("seq", "updated_at"))


def _entries() -> None:
    _table(
        "llmguard_entries",
        sa.Column("event_id", UUID, primary_key=True),
        sa.Column("attempt_id", UUID, primary_key=True),
        *_texts("kind", primary_key=True),
        sa.Column("rev", sa.SmallInteger, primary_key=True, autoincrement=False),
        *_numbers("created_at"),
        *_texts("org", "team", "env", "feature"),
        *_texts("end_user", "principal", "key_id", "task_id", "tree_id", "trace_id", nullable=True),
        *_texts("provider", "model_requested"),
        *_texts("model_served", nullable=True),
        *_texts("dialect", "endpoint"),
        sa.Column("stream", sa.Boolean, nullable=False),
        *_numbers("status", "input_tokens", "output_tokens"),
        *_numbers("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", nullable=True),
        *_numbers("cost_nano", "cost_input_nano", "cost_output_nano", "saved_nano", "estimate_nano", "cap_nano"),
        *_texts("usage_source", "price_version"),
        *_texts("cache", "finish_reason", nullable=True),
        *_numbers("latency_ms"),
        *_numbers("ttft_ms", nullable=True),
        *_numbers("bytes_in", "bytes_out"),
        *_texts("interrupted", "metadata", nullable=True),
        sa.Column("calls", sa.SmallInteger, nullable=False),
        sa.Column("charges", sa.LargeBinary, nullable=False),
    )
    op.create_index("llmguard_entries_created_at", "llmguard_entries", ["created_at"])
    op.execute(VIEW.format(**READABLE[op.get_context().dialect.name]))


def _keys() -> None:
    _table(
        "llmguard_keys",
        *_texts("id", primary_key=True),
        *_texts("org", "team", "env", "feature"),
        *_texts("budget", nullable=True),
        *_numbers("created_at"),
        *_numbers("expires_at", "revoked_at", nullable=True),
        sa.Column("secret_hmac", sa.LargeBinary, nullable=False),
        sa.Column("previous_hmac", sa.LargeBinary),
        *_numbers("previous_until", nullable=True),
        *_numbers("changed"),
    )
    op.create_index("ix_llmguard_keys_changed", "llmguard_keys", ["changed"])
