"""Alembic environment of the ledger. It is run by :mod:`llmguard.ledger.migrate`, which owns the transaction."""

from __future__ import annotations

from alembic import context

from llmguard.ledger.migrate import VERSION_TABLE
from llmguard.ledger.models import metadata

given = context.config.attributes

if context.is_offline_mode():
    context.configure(
        dialect_name=given["dialect"].name,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        transactional_ddl=True,
        output_buffer=context.config.output_buffer,
    )
else:
    context.configure(
        connection=given["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
    )

with context.begin_transaction():
    context.run_migrations()
