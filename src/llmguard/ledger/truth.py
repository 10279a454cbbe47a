"""What the ledger tells the quota store: sums of running windows, and the calls that were counted lately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from llmguard.core.call import UNATTRIBUTED
from llmguard.core.records import BucketCharge
from llmguard.ledger.codec import decode_charges
from llmguard.ledger.engine import reading
from llmguard.ledger.models import QUARTER_MS, entries, model_of, rollups

LONGEST_CALL_MS = 60 * 60 * 1000
"""How long before its end a call may have been admitted and still be found by :meth:`Snapshot.settled_since`."""

Unit = Literal["usd", "tokens", "calls"]


class Settled(NamedTuple):
    """A call with rows: its highest ``rev``, when it ended (epoch ms), and what all its attempts charge."""

    rid: str
    rev: int
    at: int
    charges: tuple[BucketCharge, ...]


class _Source(NamedTuple):
    time: Any
    dimensions: Mapping[str, Any]
    columns: Any


def _known(column: Any) -> Any:
    """Missing attribution counts as a value of its own, as it does in the names of buckets."""
    return sa.func.coalesce(sa.func.nullif(column, ""), UNATTRIBUTED)


_ROLLUPS = _Source(
    rollups.c.bucket_start,
    {
        "org": rollups.c.org,
        "team": rollups.c.team,
        "env": rollups.c.env,
        "feature": rollups.c.feature,
        "key": _known(rollups.c.key_id),
        "provider": rollups.c.provider,
        "model": rollups.c.model,
    },
    rollups.c,
)
_ENTRIES = _Source(
    entries.c.created_at,
    {
        "org": entries.c.org,
        "team": entries.c.team,
        "env": entries.c.env,
        "feature": entries.c.feature,
        "key": _known(entries.c.key_id),
        "provider": entries.c.provider,
        "end_user": _known(entries.c.end_user),
        "model": model_of(entries.c),
        "task": _known(entries.c.task_id),
        "tree": _known(entries.c.tree_id),
    },
    entries.c,
)


class Snapshot:
    """Reads of one moment: what :meth:`sums` counts and :meth:`settled_since` names is the same set of calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sums(
        self,
        unit: Unit,
        start_ms: int,
        end_ms: int,
        *,
        where: Mapping[str, str] | None = None,
        by: Sequence[str] = (),
        at_least: int = 0,
    ) -> dict[tuple[str, ...], int]:
        """What calls admitted in ``[start_ms, end_ms)`` were charged, per value of the dimensions in ``by``.

        ``unit`` `usd` is nano-USD, `tokens` input + output, `calls` distinct calls. ``end_ms`` 0 is no end, as in a
        window `total`. ``where`` maps dimensions (those of :data:`llmguard.core.rules.DIMENSIONS`) to one value.
        Sums below ``at_least`` are left out.
        Reads rollups when the window lies on quarter hours and no dimension needs the entries (`end_user`, `task`,
        `tree`).
        """
        where = where or {}
        aligned = start_ms % QUARTER_MS == 0 and end_ms % QUARTER_MS == 0
        source = _ROLLUPS if aligned and {*where, *by} <= _ROLLUPS.dimensions.keys() else _ENTRIES
        groups = [source.dimensions[name].label(name) for name in by]
        query = sa.select(*groups, sa.func.sum(_amount(unit, source.columns))).where(source.time >= start_ms)
        if end_ms:
            query = query.where(source.time < end_ms)
        for name, value in where.items():
            query = query.where(source.dimensions[name] == value)
        query = query.group_by(*(sa.literal_column(str(at)) for at in range(1, len(by) + 1)))
        if at_least:
            query = query.having(sa.func.sum(_amount(unit, source.columns)) >= at_least)
        return {tuple(row[:-1]): int(row[-1]) for row in self._connection.execute(query) if row[-1] is not None}

    def empty(self) -> bool:
        """Whether no call was ever recorded."""
        return self._connection.execute(sa.select(entries.c.event_id).limit(1)).first() is None

    def settled_since(self, since_ms: int) -> Iterator[Settled]:
        """Calls that ended at ``since_ms`` or later, with the charges their records carried.

        Calls that ran longer than :data:`LONGEST_CALL_MS` may be missing.
        """
        c = entries.c
        recent = c.created_at >= since_ms - LONGEST_CALL_MS
        columns = (c.event_id, c.attempt_id, c.rev, c.kind, c.created_at + c.latency_ms, c.charges)
        # Calls with more than one row are few: they are put together here, the others are passed on as they come.
        several = sa.select(c.event_id).where(recent, c.calls == 0)
        query = sa.select(*columns).where(c.event_id.in_(several)).order_by(c.event_id, c.attempt_id, c.rev)
        together: dict[str, Settled] = {}
        for rid, rows in groupby(self._connection.execute(query), key=lambda row: str(row[0])):
            together[rid] = _joined(rid, list(rows))
        yield from (settled for settled in together.values() if settled.at >= since_ms)
        query = sa.select(*columns).where(recent, c.calls == 1, c.created_at + c.latency_ms >= since_ms)
        for rid, _, rev, _, at, packed in self._connection.execution_options(yield_per=5_000).execute(query):
            if rid not in together:
                yield Settled(rid, rev, at, decode_charges(packed))


def _amount(unit: Unit, columns: Any) -> Any:
    if unit == "usd":
        return columns.cost_nano
    return columns.calls if unit == "calls" else columns.input_tokens + columns.output_tokens


def _joined(rid: str, rows: Sequence[Any]) -> Settled:
    """One call from its rows, in the order of attempt and rev: of each attempt the last record's charges count."""
    charges: dict[tuple[str, str, int], int] = {}
    for _, of_attempt in groupby(rows, key=lambda row: str(row[1])):
        *_, last = of_attempt
        for name, unit, amount, window_end in decode_charges(last[5]):
            key = (name, unit, window_end)
            charges[key] = charges.get(key, 0) + amount
    joined = tuple(BucketCharge(name, unit, amount, end) for (name, unit, end), amount in charges.items())
    return Settled(rid, max(row[2] for row in rows), max(row[4] for row in rows if row[3] == "POST"), joined)


@contextmanager
def snapshot(engine: Engine) -> Iterator[Snapshot]:
    """A consistent view of the ledger. Raises :class:`llmguard.errors.LedgerUnavailable`."""
    with reading(engine) as connection:
        yield Snapshot(connection)
