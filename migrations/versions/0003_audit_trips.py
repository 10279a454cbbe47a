"""The audit trail with its head, trips of the runaway guard, and the dead letters of stopped tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

UUID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def _numbers(*names: str, nullable: bool = False) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=nullable) for name in names]


def upgrade() -> None:
    op.create_table(
        "llmguard_audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        *_numbers("at"),
        *_texts("actor", "action", "subject", "details", "prev", "hash"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "llmguard_audit_head",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        *_numbers("seq"),
        *_texts("hash", "seal"),
        sqlite_with_rowid=False,
    )
    _trips()
    _dead_letters()


def _trips() -> None:
    op.create_table(
        "llmguard_trips",
        sa.Column("id", UUID, primary_key=True),
        *_numbers("at"),
        *_texts("scope", "name", "rule"),
        *_numbers("allowed", "seen"),
        *_texts("unit", "org", "team", "env", "feature"),
        *_texts("task", "task_id", "tree_id", nullable=True),
        *_numbers("cost_nano"),
        *_numbers("reset_at", nullable=True),
        *_texts("reset_by", nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("llmguard_trips_at", "llmguard_trips", ["at"])
    op.create_index("llmguard_trips_name", "llmguard_trips", ["name"])


def _dead_letters() -> None:
    op.create_table(
        "llmguard_dead_letters",
        sa.Column("id", UUID, primary_key=True),
        *_numbers("at"),
        *_texts("task", "task_id"),
        *_texts("tree_id", nullable=True),
        *_texts("org", "team", "env", "feature", "rule", "reason", "content_type", "content_encoding"),
        sa.Column("body", sa.LargeBinary, nullable=False),
        *_texts("options"),
        *_numbers("requeued_at", nullable=True),
        *_texts("requeued_by", "requeued_as", nullable=True),
        *_numbers("published_at", nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("llmguard_dead_letters_at", "llmguard_dead_letters", ["at"])
