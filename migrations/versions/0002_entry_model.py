"""The model that a call was sent to, by which budgets count. Rows that are there already keep an empty one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("llmguard_entries", sa.Column("model", sa.Text, nullable=False, server_default=sa.text("''")))
