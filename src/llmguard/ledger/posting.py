"""Settled calls become rows: entries, rollups, objects and the spool's offset in one transaction.

Every SETTLE becomes one POST row, however often it is delivered. A record with a higher ``rev`` for an attempt that has
its row becomes an ADJUST row of signed differences; one that is not higher becomes nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from llmguard.core.records import Entry, SettleRecord
from llmguard.ledger import rollups
from llmguard.ledger.adjust import AMOUNTS, Amounts, adjust, amounts
from llmguard.ledger.codec import encode_charges
from llmguard.ledger.engine import reading, rejections, writing
from llmguard.ledger.models import entries, spools
from llmguard.ledger.objects import Changes
from llmguard.ledger.rejected import keep, mended
from llmguard.ledger.statements import Row, insert_entries, known_events, upsert_of

SLICE = 50
"""Records per slice: what holds the interpreter in one go, some 0.5 ms."""
REST_S = 0.0005

Attempts = dict[str, dict[str, tuple[int, Amounts]]]
"""By event and attempt: the highest rev in the ledger and the amounts that its rows add up to."""


class Posting:
    """One transaction's worth of settled calls. ``rows`` counts what was really inserted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rollup: rollups.Rollup = {}
        self._objects = Changes()
        self.rows = 0

    def add(self, settled: Sequence[SettleRecord]) -> None:
        """Insert the rows of some records, in their order."""
        ids = [record.entry.event_id for record in settled]
        distinct = set(ids)
        known = known_events(self._connection, ids)
        # Almost always every call is new and comes once; then nothing has to be compared.
        if not known and len(distinct) == len(ids):
            rows = [self._row(record, record.entry, 1) for record in settled]
        else:
            rows = self._compared(settled, self._load(known))
        if rows:
            insert_entries(self._connection, rows)
        self.rows += len(rows)

    def _compared(self, settled: Sequence[SettleRecord], attempts: Attempts) -> list[Row]:
        rows = []
        for record in settled:
            entry = record.entry
            of_event = attempts[entry.event_id]
            before = of_event.get(entry.attempt_id)
            if before is None:
                rows.append(self._row(record, entry, 0 if of_event else 1))
            elif entry.rev > before[0]:
                rows.append(self._row(record, adjust(entry, before[1]), 0))
            else:
                continue
            of_event[entry.attempt_id] = entry.rev, amounts(entry)
        return rows

    def _row(self, record: SettleRecord, entry: Entry, calls: int) -> Row:
        rollups.add(self._rollup, entry, calls)
        if record.objects or record.deleted:
            self._objects.note(record)
        return (*entry, calls, encode_charges(record.buckets))

    def _load(self, event_ids: set[str]) -> Attempts:
        found: Attempts = defaultdict(dict)
        if event_ids:
            columns = entries.c
            sums = [sa.func.sum(columns[name]) for name in AMOUNTS]
            query = (
                sa.select(columns.event_id, columns.attempt_id, sa.func.max(columns.rev), *sums)
                .where(columns.event_id.in_(event_ids))
                .group_by(columns.event_id, columns.attempt_id)
            )
            for event_id, attempt_id, rev, *so_far in self._connection.execute(query):
                found[event_id][attempt_id] = rev, [None if amount is None else int(amount) for amount in so_far]
        return found

    def finish(self) -> None:
        """Write what was gathered: rollups and objects."""
        rollups.save(self._connection, self._rollup)
        self._objects.save(self._connection)


def post(engine: Engine, slices: Iterable[Sequence[SettleRecord]], *, spool: str, reached: Callable[[], int]) -> int:
    """Post slices of settled calls in one transaction; returns how many rows were new.

    ``reached`` is asked at the end for the number of the last record, which is stored as the spool's offset. After
    every slice this thread rests a moment, so that an event loop beside it gets its turn. Raises
    :class:`llmguard.errors.LedgerUnavailable`, and one of :func:`llmguard.ledger.engine.rejections`.
    """
    with writing(engine) as connection:
        posting = Posting(connection)
        for settled in slices:
            posting.add(settled)
            time.sleep(REST_S)
        posting.finish()
        _save_offset(connection, spool, reached())
    return posting.rows


def post_singly(engine: Engine, records: Iterable[SettleRecord], directory: Path) -> int:
    """Post records one by one after their batch was rejected; returns how many rows were new.

    A record that is rejected even when mended is kept in ``directory`` (see :mod:`llmguard.ledger.rejected`). Raises
    :class:`llmguard.errors.LedgerUnavailable`.
    """
    rows = 0
    for record in records:
        try:
            rows += _post_one(engine, record)
        except rejections(engine):
            try:
                rows += _post_one(engine, mended(record))
            except rejections(engine) as error:
                keep(directory, record, error)
    return rows


def _post_one(engine: Engine, record: SettleRecord) -> int:
    with writing(engine) as connection:
        posting = Posting(connection)
        posting.add([record])
        posting.finish()
    return posting.rows


def _save_offset(connection: Connection, spool: str, seq: int) -> None:
    row = {"spool": spool, "seq": seq, "updated_at": time.time_ns() // 1_000_000}
    connection.execute(_offset_statement(connection.dialect.name), row)


@cache
def _offset_statement(dialect: str) -> Any:
    insert = upsert_of(dialect, spools)
    new = {"seq": insert.excluded.seq, "updated_at": insert.excluded.updated_at}
    return insert.on_conflict_do_update(index_elements=["spool"], set_=new)


def shipped_up_to(engine: Engine, spool: str) -> int:
    """The number of the last record of a spool whose rows are committed; 0 for none."""
    with reading(engine) as connection:
        return connection.scalar(sa.select(spools.c.seq).where(spools.c.spool == spool)) or 0


def forget_spool(engine: Engine, spool: str) -> None:
    """Drop the offset of a spool that is gone."""
    with writing(engine) as connection:
        connection.execute(sa.delete(spools).where(spools.c.spool == spool))
