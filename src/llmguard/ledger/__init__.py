"""The ledger: every call's spend, written to a local spool first and shipped to SQL once, exactly."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Engine

from llmguard.core.records import SettleRecord
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import migrate
from llmguard.ledger.engine import create_engine, writing
from llmguard.ledger.forks import Forgetter
from llmguard.ledger.objects import Objects
from llmguard.ledger.posting import Posting
from llmguard.ledger.shipper import Shipper
from llmguard.ledger.spool import Spool

__all__ = ["Ledger", "Shipper", "Spool"]


class Ledger:
    """One SQL ledger. Connects on first use; safe in threads and after fork. All calls wait, none is async."""

    def __init__(self, url: str, *, pepper: str = "") -> None:
        self.url = url
        self.engine: Engine = create_engine(url)
        self.objects = Objects(self.engine)
        self._forgetter = Forgetter(self._forget)

    def _forget(self) -> None:
        self.engine.dispose(close=False)

    def migrate(self) -> None:
        """Bring the database to this program's schema; safe beside others that do the same."""
        migrate.upgrade(self.engine)

    def check(self) -> None:
        """Raise :class:`llmguard.errors.LedgerUnavailable` unless the database is there and has our schema."""
        if not migrate.check(self.engine):
            raise LedgerUnavailable("the ledger's schema is not this program's: run `llmguard migrate`")

    def post(self, settled: Sequence[SettleRecord]) -> int:
        """Post settled calls without a spool, in one transaction; returns how many rows were new."""
        with writing(self.engine) as connection:
            posting = Posting(connection)
            posting.add(settled)
            posting.finish()
        return posting.rows

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
