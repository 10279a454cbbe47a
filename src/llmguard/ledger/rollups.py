"""Rollups: quarter-hour sums that keep reports fast. Derived from the entries, and always equal to them."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llmguard.core.records import Entry
from llmguard.ledger.models import QUARTER_MS, entries, model_of, rollups
from llmguard.ledger.statements import upsert_of

KEYS = tuple(column.name for column in rollups.primary_key)
SUMS = tuple(column.name for column in rollups.columns if not column.primary_key)

Group = tuple[Any, ...]
Rollup = dict[Group, list[int]]
"""Sums in the order of :data:`SUMS`, by group in the order of :data:`KEYS`."""


def add(into: Rollup, entry: Entry, calls: int) -> None:
    """Count one inserted row."""
    group = (
        entry.created_at - entry.created_at % QUARTER_MS,
        entry.org,
        entry.team,
        entry.env,
        entry.feature,
        entry.key_id or "",
        entry.provider,
        entry.model or entry.model_served or entry.model_requested,
    )
    sums = into.get(group)
    if sums is None:
        sums = into[group] = [0] * len(SUMS)
    sums[0] += calls
    sums[1] += entry.input_tokens
    sums[2] += entry.output_tokens
    sums[3] += entry.cached_input_tokens or 0
    sums[4] += entry.cache_write_tokens or 0
    sums[5] += entry.reasoning_tokens or 0
    sums[6] += entry.cost_nano
    sums[7] += entry.saved_nano


def save(connection: Connection, rollup: Rollup) -> None:
    """Add the sums to those in the database. Groups go in sorted order, so that two writers cannot lock each other."""
    if not rollup:
        return
    names = KEYS + SUMS
    rows = [dict(zip(names, (*group, *sums), strict=True)) for group, sums in sorted(rollup.items())]
    connection.execute(_adding(connection.dialect.name), rows)


@cache
def _adding(dialect: str) -> Any:
    insert = upsert_of(dialect, rollups)
    sums = {name: rollups.c[name] + insert.excluded[name] for name in SUMS}
    return insert.on_conflict_do_update(index_elements=list(KEYS), set_=sums)


def _derived() -> sa.Select[Any]:
    """The rollups as the entries have them now."""
    c = entries.c
    quarter = c.created_at - c.created_at % QUARTER_MS
    key = sa.func.coalesce(c.key_id, "")
    groups = (quarter, c.org, c.team, c.env, c.feature, key, c.provider, model_of(c))
    columns = [column.label(name) for name, column in zip(KEYS, groups, strict=True)]
    columns += [sa.cast(sa.func.coalesce(sa.func.sum(c[name]), 0), sa.BigInteger).label(name) for name in SUMS]
    # By position: a repeated expression with bound values is another expression to PostgreSQL.
    return sa.select(*columns).group_by(*(sa.literal_column(str(at)) for at in range(1, len(KEYS) + 1)))


def rebuild(connection: Connection) -> None:
    """Replace all rollups by what the entries say."""
    connection.execute(sa.delete(rollups))
    connection.execute(sa.insert(rollups).from_select([*KEYS, *SUMS], _derived()))


def differences(connection: Connection) -> list[Group]:
    """The groups whose kept sums are not those of the entries; empty when all is well."""
    kept = set(map(tuple, connection.execute(sa.select(*(rollups.c[name] for name in KEYS + SUMS)))))
    derived = set(map(tuple, connection.execute(_derived())))
    return sorted({row[: len(KEYS)] for row in kept ^ derived})
