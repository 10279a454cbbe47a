"""Bring a database to this program's schema, or say whether it is there."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from llmguard.ledger.engine import create_engine, reading, writing

VERSION_TABLE = "llmguard_alembic_version"
# Any constant serves, as long as every llmguard takes the same one.
_ADVISORY_LOCK = 0x6C6C6D67
_one_at_a_time = threading.Lock()


def scripts() -> Path:
    """The migrations' directory: inside the package in a wheel, at the project's root in a checkout."""
    package = Path(__file__).parents[1]
    candidates = (package / "migrations", package.parents[1] / "migrations")
    return next(path for path in candidates if (path / "env.py").is_file())


def _config(output: io.StringIO | None = None, **attributes: object) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.attributes.update(attributes)
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate to ``revision``. Processes that migrate at once take turns; the later ones find nothing to do.

    Everything happens in one transaction. Raises :class:`llmguard.errors.LedgerUnavailable`.
    """
    # Alembic keeps what it works on in globals.
    with writing(engine) as connection, _one_at_a_time:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        command.upgrade(_config(connection=connection), revision)


def current(engine: Engine) -> str | None:
    """The database's revision, None where nothing was migrated yet."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def head() -> str:
    """The revision this program needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError(f"no migrations in {scripts()}")
    return revision


def check(engine: Engine) -> bool:
    """Whether the database is at this program's revision. Raises :class:`llmguard.errors.LedgerUnavailable`."""
    return current(engine) == head()


def sql(url: str) -> str:
    """The statements that make an empty database ready, for people who apply them by hand. Connects to nothing."""
    output = io.StringIO()
    command.upgrade(_config(output, dialect=create_engine(url).dialect), "head", sql=True)
    return output.getvalue()
