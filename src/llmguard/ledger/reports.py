"""Who spent what: sums over a period, by any dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llmguard.core.money import usd_string
from llmguard.ledger.models import QUARTER_MS, entries, model_of, refusals, rollups

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_PERIODS = {"day": (DAY_MS, "%Y-%m-%d"), "hour": (HOUR_MS, "%Y-%m-%dT%H:%M:%SZ")}
_SUMS = ("calls", "input_tokens", "output_tokens", "cached_input_tokens", "cost_nano", "saved_nano")

Group = tuple[Any, ...]


class Report(TypedDict):
    """The JSON shape of `report`: money as decimal strings of dollars, missing attribution as null."""

    rows: list[dict[str, Any]]
    total: dict[str, Any]


class _Source(NamedTuple):
    """A table that can be summed: its time column, the dimensions it has, and what is added up."""

    time: Any
    dimensions: dict[str, Any]
    sums: tuple[Any, ...]


def _shared(table: sa.Table) -> dict[str, Any]:
    return {name: table.c[name] for name in ("org", "team", "env", "feature")}


_ROLLUPS = _Source(
    rollups.c.bucket_start,
    {
        **_shared(rollups),
        "key": sa.func.nullif(rollups.c.key_id, ""),
        "provider": rollups.c.provider,
        "model": rollups.c.model,
    },
    tuple(rollups.c[name] for name in _SUMS),
)
_ENTRIES = _Source(
    entries.c.created_at,
    {
        **_shared(entries),
        "key": entries.c.key_id,
        "provider": entries.c.provider,
        "model": model_of(entries.c),
        "end_user": entries.c.end_user,
    },
    tuple(entries.c[name] for name in _SUMS),
)
_REFUSALS = _Source(refusals.c.minute, _shared(refusals), (refusals.c.refused,))

DIMENSIONS = (*_ENTRIES.dimensions, *_PERIODS)
"""What a report may be grouped by. Days and hours are those of UTC."""


def report(connection: Connection, by: Sequence[str], since_ms: int, until_ms: int) -> Report:
    """Sums of the calls admitted in the period, one row per group, in time order and dearest first.

    The period is widened to whole quarter hours. Reads rollups, and the entries only for `end_user`. Refused calls are
    counted by team, env and feature only: grouped by anything else, they stand in rows where that is null. Raises
    ValueError for a dimension that is none of :data:`DIMENSIONS`.
    """
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown:
        raise ValueError(f"cannot report by {', '.join(unknown)}; one can by {', '.join(DIMENSIONS)}")
    period = since_ms - since_ms % QUARTER_MS, until_ms + -until_ms % QUARTER_MS
    spent = _ROLLUPS if set(by) <= _ROLLUPS.dimensions.keys() | _PERIODS.keys() else _ENTRIES
    groups: dict[Group, list[int]] = {}
    _collect(connection, spent, by, period, groups, 0)
    _collect(connection, _REFUSALS, by, period, groups, len(_SUMS))
    total = [sum(column) for column in zip(*groups.values(), strict=True)] or [0] * (len(_SUMS) + 1)
    rows = [
        dict(zip(by, _readable(by, group), strict=True)) | _amounts(groups[group]) for group in _ordered(by, groups)
    ]
    return {"rows": rows, "total": _amounts(total)}


def _collect(
    connection: Connection,
    source: _Source,
    by: Sequence[str],
    period: tuple[int, int],
    into: dict[Group, list[int]],
    offset: int,
) -> None:
    """Add one table's sums to the groups, from column ``offset`` on."""
    groups = [_dimension(source, name).label(name) for name in by]
    query = (
        sa.select(*groups, *(sa.func.sum(column) for column in source.sums))
        .where(source.time >= period[0], source.time < period[1])
        .group_by(*(sa.literal_column(str(at)) for at in range(1, len(by) + 1)))
    )
    for row in connection.execute(query):
        group, sums = tuple(row[: len(by)]), row[len(by) :]
        if sums[0] is None:  # a sum over no rows at all
            continue
        amounts = into.setdefault(group, [0] * (len(_SUMS) + 1))
        for at, value in enumerate(sums, offset):
            amounts[at] += int(value or 0)


def _dimension(source: _Source, name: str) -> Any:
    if name in _PERIODS:
        return source.time - source.time % _PERIODS[name][0]
    return source.dimensions.get(name, sa.null())


def _ordered(by: Sequence[str], groups: dict[Group, list[int]]) -> list[Group]:
    times = [at for at, name in enumerate(by) if name in _PERIODS]
    cost = _SUMS.index("cost_nano")
    return sorted(groups, key=lambda g: ([g[at] for at in times], -groups[g][cost], [str(value or "") for value in g]))


def _readable(by: Sequence[str], group: Group) -> list[Any]:
    return [
        _moment(value, _PERIODS[name][1]) if name in _PERIODS else value for name, value in zip(by, group, strict=True)
    ]


def _moment(at_ms: int, form: str) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


def _amounts(sums: Sequence[int]) -> dict[str, Any]:
    calls, input_tokens, output_tokens, cached, cost, saved, refused = sums
    return {
        "calls": calls,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cached_input_tokens": cached,
        "cost_usd": usd_string(cost),
        "saved_usd": usd_string(saved),
        "refused": refused,
    }
