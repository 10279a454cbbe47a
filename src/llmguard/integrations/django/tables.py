"""The ledger's tables in the project's own database: made when the project migrates, by migrations of their own."""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS

from llmguard.errors import LLMGuardError
from llmguard.guard import Guard
from llmguard.integrations.django.guards import find_guard, leave_test_databases
from llmguard.integrations.django.settings import read_settings
from llmguard.ledger import migrate
from llmguard.ledger.engine import create_engine

UP_TO_DATE: Final = "the ledger's tables are up to date"


def after_migrate(*, using: str, verbosity: int = 1, stdout: Any = None, **_: Any) -> None:
    """`manage.py migrate` has migrated a database: bring the ledger's tables there to this program's schema.

    Only where `LEDGER` is the alias of that database: whoever keeps the ledger elsewhere calls `manage.py llmguard
    migrate`. Test databases get their tables by this.
    """
    if read_settings().alias != using:
        return
    engine = create_engine(find_guard().config.ledger)
    try:
        if not migrate.check(engine):
            migrate.upgrade(engine)
            if verbosity and stdout is not None:
                stdout.write("  Brought llmguard's tables up to date.\n")
    finally:
        engine.dispose()


def before_maintenance(*, connection: Any, **_: Any) -> None:
    """Someone has connected to a server and to no database there, as is done to copy or drop one: nobody else may be
    connected to it then."""
    if connection.alias == NO_DB_ALIAS:
        leave_test_databases()


def behind() -> str | None:
    """Why the ledger cannot be used as it is, None where it can."""
    try:
        guard: Guard = find_guard()
    except (ImproperlyConfigured, LLMGuardError):
        return None  # other checks tell
    problems = [problem for problem in guard.check() if problem.where == "ledger"]
    return problems[0].message if problems else None
