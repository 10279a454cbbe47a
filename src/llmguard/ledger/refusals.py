"""Refused calls are not rows; they are counted per minute, attribution and code."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.engine import Connection

from llmguard.ledger.models import refusals
from llmguard.ledger.statements import upsert

Refusal = tuple[int, str, str, str, str, str]
"""Minute (epoch ms), org, team, env, feature, code."""

_NAMES = ("minute", "org", "team", "env", "feature", "code")


def count(connection: Connection, counted: Mapping[Refusal, int]) -> None:
    """Add counts to those in the database."""
    if not counted:
        return
    insert = upsert(connection, refusals)
    statement = insert.on_conflict_do_update(
        index_elements=list(_NAMES), set_={"refused": refusals.c.refused + insert.excluded.refused}
    )
    rows = [dict(zip(_NAMES, refusal, strict=True), refused=number) for refusal, number in sorted(counted.items())]
    connection.execute(statement, rows)
