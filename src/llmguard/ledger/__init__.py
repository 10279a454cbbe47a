"""The ledger: every call's spend, written to a local spool first and posted to SQL exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy.engine import Engine

from llmguard.core.records import SettleRecord
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import adopt, migrate, refusals, reports, rollups, truth
from llmguard.ledger.adopt import Adopted
from llmguard.ledger.audit import Trail
from llmguard.ledger.configurations import Configurations
from llmguard.ledger.dead_letters import DeadLetter, DeadLetters
from llmguard.ledger.engine import create_engine, reading, writing
from llmguard.ledger.forks import Forgetter
from llmguard.ledger.keys import Keys, Verified
from llmguard.ledger.keytext import parse_key
from llmguard.ledger.objects import Objects
from llmguard.ledger.payloads import Payload, Payloads
from llmguard.ledger.posting import Posting
from llmguard.ledger.refusals import Refusal
from llmguard.ledger.reports import Report
from llmguard.ledger.shipper import Shipper
from llmguard.ledger.spool import Spool
from llmguard.ledger.trips import TripRow, Trips
from llmguard.ledger.truth import Snapshot

__all__ = [
    "Adopted",
    "DeadLetter",
    "Ledger",
    "Payload",
    "Report",
    "Shipper",
    "Snapshot",
    "Spool",
    "TripRow",
    "Verified",
    "parse_key",
]


class Ledger:
    """One SQL ledger: `sqlite:///file` or `postgresql://…`.

    Connects on first use; may be used by several threads and after a fork. Every method waits for the database and
    raises :class:`llmguard.errors.LedgerUnavailable` when it is away or lacks our tables.
    """

    def __init__(self, url: str, *, pepper: bytes) -> None:
        self.url = url
        self.engine: Engine = create_engine(url)
        self.audit = Trail(self.engine, pepper)
        self.keys = Keys(self.engine, pepper, self.audit)
        self.trips = Trips(self.engine, self.audit)
        self.dead_letters = DeadLetters(self.engine, self.audit)
        self.objects = Objects(self.engine, self.audit)
        self.configurations = Configurations(self.engine, self.audit)
        self.payloads = Payloads(self.engine, self.audit)
        self._forgetter = Forgetter(self._forget)

    def _forget(self) -> None:
        self.engine.dispose(close=False)

    def migrate(self) -> None:
        """Bring the database to this program's schema; safe beside other processes that do the same."""
        migrate.upgrade(self.engine)

    def check(self) -> None:
        """Raise unless the database answers and has this program's schema."""
        if not migrate.check(self.engine):
            raise LedgerUnavailable("the ledger's schema is not this program's: run `llmguard migrate`")

    def make_ready(self) -> None:
        """Migrate an embedded SQLite ledger; of a server, only check that somebody has run `llmguard migrate`."""
        if self.engine.dialect.name == "sqlite":
            self.migrate()
        else:
            self.check()

    def shipper(self, spool: Spool, *, interval: float = 0.1) -> Shipper:
        """What carries a spool into this ledger; not started."""
        return Shipper(spool, self.engine, interval=interval)

    def adopt(
        self,
        directory: Path,
        *,
        on_settled: Callable[[Sequence[SettleRecord]], None],
        on_released: Callable[[Sequence[str]], None],
    ) -> Adopted:
        """Take over the spools of dead processes; see :func:`llmguard.ledger.adopt.adopt`."""
        return adopt.adopt(directory, self.engine, on_settled=on_settled, on_released=on_released)

    def post(self, settled: Sequence[SettleRecord]) -> int:
        """Post settled calls without a spool, in one transaction; returns how many rows were new."""
        with writing(self.engine) as connection:
            posting = Posting(connection)
            posting.add(settled)
            posting.finish()
        return posting.rows

    def count_refusals(self, counted: Mapping[Refusal, int]) -> None:
        """Add to the counts of refused calls."""
        with writing(self.engine) as connection:
            refusals.count(connection, counted)

    def report(self, by: Sequence[str], since_ms: int, until_ms: int) -> Report:
        """Spend by dimensions; see :func:`llmguard.ledger.reports.report`."""
        with reading(self.engine) as connection:
            return reports.report(connection, by, since_ms, until_ms)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """A consistent view for the quota store's start and reconciliation."""
        return truth.snapshot(self.engine)

    def rebuild_rollups(self) -> None:
        """Derive all rollups anew from the entries."""
        with writing(self.engine) as connection:
            rollups.rebuild(connection)

    def rollup_differences(self) -> list[rollups.Group]:
        """Groups whose kept sums differ from the entries: empty, always."""
        with reading(self.engine) as connection:
            return rollups.differences(connection)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
