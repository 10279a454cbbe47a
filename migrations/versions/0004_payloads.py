"""What calls said and heard, where the configuration asks for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

UUID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "llmguard_payloads",
        sa.Column("event_id", UUID, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("org", "team", "prompt", "reply")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("prompt_bytes", "reply_bytes")),
        sa.Column("redacted", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("llmguard_payloads_at", "llmguard_payloads", ["at"])
