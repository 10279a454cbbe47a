"""What the quota store hears from the ledger."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmguard.config import own_budget
from llmguard.core.call import ObjectRef
from llmguard.core.moves import Release, Settle
from llmguard.core.records import BucketCharge, SentRecord, SettleRecord
from llmguard.core.rules import BudgetRule
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger, Spool
from llmguard.runtime.books import LedgerBooks
from llmguard.runtime.ids import now_ms
from tests.support.ledger import PEPPER, entry, hold, settle


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", pepper=PEPPER)
    yield made
    made.close()


def leave_behind(path: Path, rng: random.Random) -> tuple[str, str, str]:
    """The spool of a process that died: a call that ended, one that was sent, one that was not; their ids."""
    ended, sent, held = (entry(rng, created_at=now_ms()) for _ in range(3))
    spool = Spool(path)
    for one in (ended, sent, held):
        spool.append(hold(one))
    for one in (ended, sent):
        spool.append(SentRecord(one.event_id, one.attempt_id))
    spool.append(settle(ended))
    spool.close(0)
    return ended.event_id, sent.event_id, held.event_id


def test_a_start_tells_what_became_of_a_dead_processs_calls(tmp_path: Path, ledger: Ledger) -> None:
    ended, sent, held = leave_behind(tmp_path / "spool", random.Random(2))
    moves = {move.rid: move for move in LedgerBooks(ledger, tmp_path / "spool", (), own_budget).prepare()}
    assert set(moves) == {ended, sent, held}
    assert isinstance(moves[held], Release)
    told, charged = moves[ended], moves[sent]
    assert isinstance(told, Settle)
    assert isinstance(charged, Settle)
    assert [charge.amount for charge in told.charges] == [12_345_678, 1_200, 0]
    assert (charged.rev, charged.charges[0].amount) == (0, 20_000_000)
    assert [charge.concurrency for charge in told.charges] == [False, False, True]


def test_what_was_found_before_the_ledger_went_away_is_told_the_next_time(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = leave_behind(tmp_path / "spool", random.Random(3))
    books = LedgerBooks(ledger, tmp_path / "spool", (), own_budget)
    plain = ledger.adopt

    def interrupted(*args: object, **options: object) -> object:
        plain(*args, **options)  # type: ignore[arg-type]
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "adopt", interrupted)
        with pytest.raises(LedgerUnavailable):
            books.prepare()
    second = leave_behind(tmp_path / "spool", random.Random(4))
    assert {move.rid for move in books.adopt()} == {*first, *second}
    assert books.adopt() == []


def test_the_truth_has_the_sums_of_running_windows_and_the_calls_in_them(tmp_path: Path, ledger: Ledger) -> None:
    ledger.make_ready()
    rules = [
        BudgetRule("each", {"team": "*"}, 10**9, "usd", "day"),
        BudgetRule("ads", {"team": "ads"}, 10**6, "tokens", "total"),
        BudgetRule("nobody", {"team": "nobody"}, 10**9, "usd", "month"),
    ]
    books = LedgerBooks(ledger, tmp_path / "spool", rules, own_budget)
    assert books.truth().untouched
    rng, now = random.Random(5), now_ms()
    today = [entry(rng, created_at=now, team=team) for team in ("search", "search", "ads")]
    old = entry(rng, created_at=now - 3 * 86_400_000, team="ads")
    ledger.post([settle(one) for one in (*today, old)])
    truth = books.truth()
    sums = {charge.name.partition("|")[0] + charge.name.rpartition("|")[2]: charge.amount for charge in truth.sums}
    assert sums == {
        "usdteam=search": 2 * 12_345_678,
        "usdteam=ads": 12_345_678,
        "tokensteam=ads": 2 * 1_200,
        "usdteam=nobody": 0,
    }
    assert {counted.rid for counted in truth.counted} == {one.event_id for one in today}
    assert not truth.untouched
    assert sorted(amount for _, amount in books.standing()) == sorted(sums.values())


def test_a_store_that_is_loaded_hears_what_dear_work_of_the_last_day_has_cost(tmp_path: Path, ledger: Ledger) -> None:
    ledger.make_ready()
    books = LedgerBooks(ledger, tmp_path / "spool", (), own_budget)
    rng, now = random.Random(7), now_ms()
    work = [
        entry(rng, created_at=now, task_id=f"t{number}", tree_id="root", cost_nano=30_000_000) for number in (1, 1, 2)
    ]
    late = entry(rng, created_at=now - 25 * 3_600_000, task_id="t3", tree_id="old", cost_nano=10**9)
    plain = entry(rng, created_at=now, cost_nano=10**9)
    ledger.post([settle(one) for one in (*work, late, plain)])
    sums = {charge.name: charge for charge in books.truth().sums}
    assert {name: charge.amount for name, charge in sums.items()} == {
        "usd|total|0|task=t1": 60_000_000,
        "usd|total|0|tree=root": 90_000_000,
    }
    assert all(now < charge.window_end <= now_ms() + 7 * 86_400_000 for charge in sums.values())
    assert books.windows().sums == []


def test_the_owner_of_an_object_is_its_team(tmp_path: Path, ledger: Ledger) -> None:
    ledger.make_ready()
    ledger.post([settle(entry(random.Random(6)), objects=(("file", "file-1"),))])
    books = LedgerBooks(ledger, tmp_path / "spool", (), own_budget)
    assert books.owner("openai", ObjectRef("file", "file-1")) == "default/search"
    assert books.owner("openai", ObjectRef("file", "file-2")) is None
    assert books.owner("azure", ObjectRef("file", "file-1")) is None


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
