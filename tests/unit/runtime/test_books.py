"""What the quota store hears from the ledger."""

from __future__ import annotations

import random
from pathlib import Path

from llmguard.config import own_budget
from llmguard.core.records import BucketCharge, SettleRecord
from llmguard.ledger import Ledger
from llmguard.runtime.books import LedgerBooks
from llmguard.runtime.ids import now_ms
from tests.support.ledger import PEPPER, entry


def test_only_calls_that_a_rule_counts_are_settled_again(tmp_path: Path) -> None:
    rng = random.Random(1)
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.db'}", pepper=PEPPER)
    ledger.make_ready()
    counted, uncounted = (entry(rng, created_at=now_ms() - 5_000, cost_nano=cost) for cost in (7_000, 0))
    ledger.post([SettleRecord(counted, (BucketCharge("b", "usd", 7_000, 0),)), SettleRecord(uncounted, ())])
    books = LedgerBooks(ledger, tmp_path / "spool", (), own_budget)
    (move,) = books.recent()
    assert (move.rid, move.rev, move.at) == (counted.event_id, 3, counted.created_at + counted.latency_ms)
    assert [(charge.name, charge.amount) for charge in move.charges] == [("b", 7_000)]
    ledger.close()


def test_a_key_whose_budget_cannot_be_read_does_not_keep_the_store_from_its_truth(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.db'}", pepper=PEPPER)
    ledger.make_ready()
    for budget in ("lots", "$5"):
        ledger.keys.create(team="search", env="prod", feature="chat", budget=budget)
    books = LedgerBooks(ledger, tmp_path / "spool", (), own_budget)
    assert [(bucket.limit, amount) for bucket, amount in books.standing()] == [(5 * 10**9, 0)]
    assert len(books.truth().sums) == 1
    ledger.close()
