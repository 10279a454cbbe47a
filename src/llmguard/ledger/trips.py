"""Trips of the runaway guard as rows: what was stopped, when and why, and who let it run again."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from llmguard.ledger.audit import Trail, plain
from llmguard.ledger.clock import Clock, now_ms
from llmguard.ledger.engine import reading, writing
from llmguard.ledger.models import trips
from llmguard.ledger.statements import upsert


@dataclass(frozen=True, slots=True)
class TripRow:
    """One trip.

    ``name`` is what the quota store calls it; ``scope`` is `task`, `tree`, `name` or `feature`. ``allowed`` and
    ``seen`` are in ``unit``; that of money is `usd`, and its amounts are nano-USD. Times are epoch milliseconds;
    ``reset_at`` is None while the trip holds.
    """

    id: str
    at: int
    scope: str
    name: str
    rule: str
    allowed: int
    seen: int
    unit: str
    org: str
    team: str
    env: str
    feature: str
    task: str | None = None
    task_id: str | None = None
    tree_id: str | None = None
    cost_nano: int = 0
    reset_at: int | None = None
    reset_by: str | None = None


_DETAILS = (
    "id",
    "scope",
    "rule",
    "allowed",
    "seen",
    "unit",
    "team",
    "env",
    "feature",
    "task",
    "task_id",
    "tree_id",
    "cost_nano",
)


class Trips:
    """The trips of one ledger. ``clock`` returns epoch milliseconds. All methods raise LedgerUnavailable."""

    def __init__(self, engine: Engine, trail: Trail, clock: Clock = now_ms) -> None:
        self._engine = engine
        self._trail = trail
        self._clock = clock

    def add(self, trip: TripRow, actor: str) -> bool:
        """Write a trip and its audit record; False, and nothing, where one with this id is there already."""
        row = {name: plain(value) if isinstance(value, str) else value for name, value in asdict(trip).items()}
        with writing(self._engine) as connection:
            insert = upsert(connection, trips).values(row).on_conflict_do_nothing().returning(trips.c.id)
            if connection.execute(insert).first() is None:
                return False
            details = {name: getattr(trip, name) for name in _DETAILS}
            self._trail.append(connection, actor, "trip", trip.name, details)
        return True

    def get(self, wanted: str) -> list[TripRow]:
        """The trips with this id or this store name, the newest first."""
        is_wanted = (sa.cast(trips.c.id, sa.Text) == wanted) | (trips.c.name == wanted)
        query = sa.select(trips).where(is_wanted).order_by(trips.c.at.desc(), trips.c.id.desc())
        with reading(self._engine) as connection:
            return [TripRow(**row._mapping) for row in connection.execute(query)]

    def reset(self, name: str, actor: str) -> int:
        """Note that a name is let run again, before the quota store is told; returns how many trips that ends.

        It is a record also where no row is known: the row may still be on its way.
        """
        with writing(self._engine) as connection:
            update = sa.update(trips).where(trips.c.name == name, trips.c.reset_at.is_(None))
            ended = connection.execute(update.values(reset_at=self._clock(), reset_by=actor)).rowcount
            self._trail.append(connection, actor, "trip.reset", name, {"trips": ended})
        return ended

    def list(self, *, active: bool = False, limit: int = 100) -> list[TripRow]:
        """The newest trips first; ``active`` leaves out those that were reset."""
        query = sa.select(trips).order_by(trips.c.at.desc(), trips.c.id.desc()).limit(limit)
        if active:
            query = query.where(trips.c.reset_at.is_(None))
        with reading(self._engine) as connection:
            return [TripRow(**row._mapping) for row in connection.execute(query)]
