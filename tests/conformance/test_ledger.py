"""The ledger on each database: every settled call is there once, and every sum is right."""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmguard.core.call import Principal
from llmguard.core.records import BucketCharge, Record, SettleRecord, VoidRecord
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger, Shipper, Spool, Verified
from llmguard.ledger.objects import Owner
from llmguard.ledger.posting import post_singly
from llmguard.testing.ledgers import LedgerSuite, one, rows
from tests.support.ledger import (
    PEPPER,
    T0,
    charges,
    entry,
    hold,
    new_id,
    partial,
    sent,
    settle,
)

MINUTE = 60_000
QUARTER = 15 * MINUTE
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def spool_of(tmp_path: Path, **options: int) -> Spool:
    return Spool(tmp_path / "spool", **({"segment_bytes": 32 * 1024, "reserve_bytes": 32 * 1024} | options))


def abandon(spool: Spool, records: list[Record]) -> None:
    """Leave a spool as a dead process does."""
    for record in records:
        spool.append(record)
    spool.close(0)


# ---------------------------------------------------------------------- posting


class TestLedger(LedgerSuite):
    """What every ledger has to do, and ours does on each database."""

    @pytest.fixture
    def ledger(self, ledger: Ledger) -> Ledger:
        return ledger


# ---------------------------------------------------------------------- shipping


def test_the_shipper_empties_the_spool(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    shipper = ledger.shipper(spool, interval=0.01)
    shipper.start()
    calls = [entry(rng) for _ in range(300)]
    for call in calls:
        for record in (hold(call), sent(call), settle(call)):
            spool.append(record)
    assert shipper.flush(20)
    assert shipper.healthy
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 300
    assert rows(ledger, "SELECT spool, seq FROM llmguard_spools") == [(spool.path.name, 900)]  # type: ignore[union-attr]
    assert len(spool.parts()) == 1
    assert shipper.stop()
    spool.close(shipper.shipped)
    assert list((tmp_path / "spool").iterdir()) == []
    assert rows(ledger, "SELECT * FROM llmguard_spools") == []


def test_two_shippers_at_once_ship_everything(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spools = [spool_of(tmp_path), spool_of(tmp_path)]
    shippers = [ledger.shipper(spool, interval=0.01) for spool in spools]
    for shipper in shippers:
        shipper.start()
    for n in range(400):
        spools[n % 2].append(settle(entry(rng, feature=f"f{n % 5}")))
    assert [shipper.stop(timeout=20) for shipper in shippers] == [True, True]
    assert one(ledger, "SELECT sum(calls) FROM llmguard_rollups") == 400
    assert ledger.rollup_differences() == []


def test_without_a_database_records_wait_in_the_spool(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE llmguard_rollups RENAME TO away"))
    spool = spool_of(tmp_path)
    shipper = ledger.shipper(spool, interval=0.01)
    for _ in range(120):
        spool.append(settle(entry(rng)))
    with pytest.raises(LedgerUnavailable):
        shipper.ship()
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 0
    assert shipper.shipped == 0
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO llmguard_rollups"))
    shipper.start()
    assert shipper.flush(20)
    assert one(ledger, "SELECT sum(calls) FROM llmguard_rollups") == 120
    shipper.stop()


def test_a_row_that_is_rejected_does_not_hold_up_the_others(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    shipper = ledger.shipper(spool)
    records = [settle(entry(rng)) for _ in range(8)]
    records[2] = settle(entry(rng, finish_reason="a\x00b", bytes_out=(1 << 64) - 1))
    records[5] = settle(entry(rng, org=None))
    if ledger.engine.dialect.name == "postgresql":
        records[6] = settle(entry(rng, event_id="no uuid"))
    for record in records:
        spool.append(record)
    shipper.ship()
    assert shipper.shipped == 8
    kept = [json.loads(line) for line in (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()]
    ids = {record[1][0][0] if isinstance(record[0], int) else record[0][0] for record in kept}
    assert ids == {records[5].entry.event_id} | {r.entry.event_id for r in records if r.entry.event_id == "no uuid"}
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 8 - len(ids)
    assert one(ledger, "SELECT max(bytes_out) FROM llmguard_entries") == (1 << 63) - 1
    assert ledger.rollup_differences() == []


def test_a_database_that_goes_away_while_rows_are_sorted_out_loses_none(
    ledger: Ledger, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_of(tmp_path)
    shipper = ledger.shipper(spool)
    records = [settle(entry(rng)) for _ in range(5)]
    records[3] = settle(entry(rng, bytes_out=1 << 63))
    for record in records:
        spool.append(record)
    calls = 0

    def failing(*args: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise LedgerUnavailable("gone")
        return post_singly(*args)

    monkeypatch.setattr("llmguard.ledger.shipper.post_singly", failing)
    with pytest.raises(LedgerUnavailable):
        shipper.ship()
    assert shipper.shipped == 0
    shipper.ship()
    assert shipper.shipped == 5
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 5
    assert ledger.rollup_differences() == []


def test_an_adopter_keeps_what_it_cannot_read(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    abandon(spool_of(tmp_path), [settle(entry(rng)), settle(entry(rng, org=None)), settle(entry(rng))])
    assert Heard().adopt(ledger, tmp_path).rows == 2
    assert len((tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()) == 1


def test_a_shipper_follows_its_spool_over_many_segments(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spool = spool_of(tmp_path, segment_bytes=4 * 1024)
    shipper = ledger.shipper(spool)
    running = [entry(rng) for _ in range(3)]
    for call in running:
        spool.append(hold(call))
        spool.append(sent(call))
    total = 0
    for _ in range(20):
        for _ in range(rng.randrange(30)):
            spool.append(settle(entry(rng)))
            total += 1
        while shipper.ship():
            pass
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == total
    assert len(spool.parts()) <= 2
    for call in running:
        spool.append(settle(call))
    while shipper.ship():
        pass
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == total + 3


# ---------------------------------------------------------------------- adoption


class Heard:
    """What an adopter told the quota store."""

    def __init__(self) -> None:
        self.settled: list[SettleRecord] = []
        self.released: list[str] = []

    def adopt(self, ledger: Ledger, tmp_path: Path) -> Any:
        return ledger.adopt(tmp_path / "spool", on_settled=self.settled.extend, on_released=self.released.extend)


def interrupted_calls(rng: random.Random) -> tuple[list[Record], dict[str, Any]]:
    """One call of each way to end, or not to."""
    names = ("done", "void", "held", "sent", "streaming", "again", "retried")
    calls = {name: entry(rng) for name in names}
    done, void, held, gone, streaming, again, retried = calls.values()
    retry = retried._replace(attempt_id=new_id(rng))
    records: list[Record] = [
        hold(done), sent(done), partial(done, 9), settle(done),
        hold(void), sent(void), VoidRecord(void.event_id),
        hold(held),
        hold(gone), sent(gone),
        hold(streaming), sent(streaming), partial(streaming, 10), partial(streaming, 100),
        hold(again), sent(again), partial(again, 1), hold(again),
        hold(retried), sent(retried), hold(retry),
    ]  # fmt: skip
    return records, calls


def test_a_dead_spool_is_settled_charged_and_released(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    records, calls = interrupted_calls(rng)
    abandon(spool_of(tmp_path), records)
    heard = Heard()
    assert tuple(heard.adopt(ledger, tmp_path)) == (1, 4, 3, 2)
    found = rows(ledger, "SELECT event_id, cost_nano, usage_source, rev, interrupted FROM llmguard_entries")
    assert {str(event_id): rest for event_id, *rest in found} == {
        calls["done"].event_id: [12_345_678, "provider", 3, None],
        calls["sent"].event_id: [20_000_000, "hold", 0, "process_lost"],
        calls["streaming"].event_id: [7_000_000, "estimated", 1, "process_lost"],
        calls["again"].event_id: [2_050_000, "estimated", 1, "process_lost"],
    }
    assert heard.released == [calls["held"].event_id, calls["retried"].event_id]
    assert [record.entry.cost_nano for record in heard.settled] == [12_345_678, 20_000_000, 7_000_000, 2_050_000]
    assert [bucket.amount for bucket in heard.settled[2].buckets] == [7_000_000, 1_100, 0]
    assert list((tmp_path / "spool").iterdir()) == []
    assert tuple(heard.adopt(ledger, tmp_path)) == (0, 0, 0, 0)
    assert rows(ledger, "SELECT * FROM llmguard_spools") == []


def test_a_living_spool_is_left_alone(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    spool.append(settle(entry(rng)))
    assert tuple(Heard().adopt(ledger, tmp_path)) == (0, 0, 0, 0)
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 0


def test_what_was_shipped_before_is_not_posted_again(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    shipper = ledger.shipper(spool)
    before = [settle(entry(rng)) for _ in range(70)]
    for record in before:
        spool.append(record)
    shipper.ship()
    abandon(spool, [settle(entry(rng)) for _ in range(70)])
    heard = Heard()
    assert heard.adopt(ledger, tmp_path).rows == 70
    assert heard.settled[:70] == before
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 140


def test_an_adopter_that_fails_halfway_is_followed_by_another(
    ledger: Ledger, rng: random.Random, tmp_path: Path
) -> None:
    records, _ = interrupted_calls(rng)
    abandon(spool_of(tmp_path), records)
    heard = Heard()

    def store_away(told: Any) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ledger.adopt(tmp_path / "spool", on_settled=store_away, on_released=heard.released.extend)
    with pytest.raises(ConnectionError):
        ledger.adopt(tmp_path / "spool", on_settled=heard.settled.extend, on_released=store_away)
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 4
    assert tuple(heard.adopt(ledger, tmp_path)) == (1, 0, 3, 2)
    assert one(ledger, "SELECT sum(cost_nano) FROM llmguard_entries") == 41_395_678
    assert len(heard.released) == 2
    assert Counter(record.entry.event_id for record in heard.settled).most_common()[-1][1] == 2
    assert ledger.rollup_differences() == []


def test_adopters_that_race_do_the_work_once(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    for _ in range(6):
        records, _ = interrupted_calls(rng)
        abandon(spool_of(tmp_path), records)
    heard = [Heard() for _ in range(4)]
    results: list[Any] = []
    threads = [threading.Thread(target=lambda h=h: results.append(h.adopt(ledger, tmp_path))) for h in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(column) for column in zip(*results, strict=True)] == [6, 24, 18, 12]
    assert sum(len(h.released) for h in heard) == 12
    assert one(ledger, "SELECT sum(cost_nano) FROM llmguard_entries") == 6 * 41_395_678


# ---------------------------------------------------------------------- objects


def test_objects_belong_to_the_team_whose_call_made_them(ledger: Ledger, rng: random.Random) -> None:
    mine, other = entry(rng), entry(rng, team="ads")
    ledger.post([settle(mine, objects=(("response", "r1"), ("file", "f1"))), settle(other, objects=(("file", "f2"),))])
    ledger.post([settle(entry(rng, team="ads"), objects=(("response", "r1"),), deleted=(("file", "f1"),))])
    assert ledger.objects.owner("response", "openai", "r1") == ("default", "search")
    assert ledger.objects.owner("file", "openai", "f1") == ("default", "search")
    assert ledger.objects.owner("file", "openai", "f2") == ("default", "ads")
    assert ledger.objects.owner("file", "anthropic", "f1") is None
    ledger.post([settle(entry(rng), deleted=(("file", "f1"),))])
    assert ledger.objects.owner("file", "openai", "f1") is None


def test_an_object_made_and_deleted_in_one_batch_is_gone(ledger: Ledger, rng: random.Random) -> None:
    made = settle(entry(rng), objects=(("file", "f1"), ("file", "f2")))
    gone = settle(entry(rng), deleted=(("file", "f1"),))
    ledger.post([made, gone])
    ledger.post([made])
    assert ledger.objects.owner("file", "openai", "f1") is None
    assert ledger.objects.owner("file", "openai", "f2") == ("default", "search")


def test_an_older_object_can_be_noted_by_hand(ledger: Ledger) -> None:
    ledger.objects.add("file", "openai", "f9", Owner("default", "search", T0, None))
    assert ledger.objects.owner("file", "openai", "f9") == ("default", "search")


# ---------------------------------------------------------------------- keys


@pytest.fixture
def clock(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [T0]
    monkeypatch.setattr(ledger.keys, "_clock", lambda: now[0])
    return now


def test_a_key_is_known_by_its_text_alone(ledger: Ledger, clock: list[int]) -> None:
    key, text = ledger.keys.create("search", "Prod", "chat", budget="$5/day")
    assert text.startswith(f"lg_prod_{key.id}_")
    assert ledger.keys.lookup(text) == Verified(
        Principal(key.id, key.id, "search", "Prod", "chat", "default", "$5/day"), None
    )
    other = Ledger(ledger.url, pepper=PEPPER + b"!")
    assert other.keys.lookup(text) == "unknown"
    other.close()
    assert ledger.keys.lookup(text[:-1]) == "unknown"
    assert ledger.keys.lookup("sk-whatever") == "unknown"
    assert text.encode() not in one(ledger, "SELECT secret_hmac FROM llmguard_keys")
    assert ledger.keys.list() == [key]


def test_a_key_expires(ledger: Ledger, clock: list[int]) -> None:
    _, text = ledger.keys.create("search", "prod", "chat", expires_at=T0 + 100)
    verified = ledger.keys.lookup(text)
    assert isinstance(verified, Verified)
    assert verified.until == T0 + 100
    clock[0] = T0 + 100
    assert ledger.keys.lookup(text) == "expired"


def test_two_secrets_are_good_while_a_key_rotates(ledger: Ledger, clock: list[int]) -> None:
    key, first = ledger.keys.create("search", "prod", "chat")
    rotated, second = ledger.keys.rotate(key.id, grace_ms=1_000)
    assert rotated.previous_until == T0 + 1_000
    old, new = ledger.keys.lookup(first), ledger.keys.lookup(second)
    assert isinstance(old, Verified)
    assert isinstance(new, Verified)
    assert (old.until, new.until) == (T0 + 1_000, None)
    clock[0] = T0 + 1_000
    assert ledger.keys.lookup(first) == "expired"
    assert ledger.keys.lookup(second) == new
    _, third = ledger.keys.rotate(key.id, grace_ms=1_000)
    assert [type(ledger.keys.lookup(text)) for text in (first, second, third)] == [str, Verified, Verified]


def test_a_revoked_key_is_no_good_with_either_secret(ledger: Ledger, clock: list[int]) -> None:
    key, first = ledger.keys.create("search", "prod", "chat")
    _, second = ledger.keys.rotate(key.id)
    assert ledger.keys.revoke(key.id).status(T0) == "revoked"
    clock[0] = T0 + 5
    assert ledger.keys.revoke(key.id).revoked_at == T0
    assert [ledger.keys.lookup(text) for text in (first, second)] == ["revoked", "revoked"]
    for action in (ledger.keys.rotate, ledger.keys.revoke):
        with pytest.raises(KeyError):
            action("nobody")
    with pytest.raises(KeyError):
        ledger.keys.rotate(key.id)


def test_every_process_hears_which_keys_changed(ledger: Ledger, clock: list[int]) -> None:
    assert ledger.keys.changes_since(0) == (0, frozenset())
    first, _ = ledger.keys.create("search", "prod", "chat")
    second, _ = ledger.keys.create("ads", "prod", "chat")
    version, ids = ledger.keys.changes_since(0)
    assert ids == {first.id, second.id}
    assert ledger.keys.changes_since(version) == (version, frozenset())
    ledger.keys.revoke(first.id)
    assert ledger.keys.changes_since(version) == (version + 1, frozenset({first.id}))


def test_no_change_is_missed_while_keys_are_made(ledger: Ledger) -> None:
    """Four makers and a reader that only ever asks for what is newer than it has seen."""
    made: list[str] = []
    seen: set[str] = set()

    def make() -> None:
        for _ in range(10):
            made.append(ledger.keys.create("search", "prod", "chat")[0].id)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    version = 0
    while any(thread.is_alive() for thread in threads) or len(seen) < len(made):
        version, ids = ledger.keys.changes_since(version)
        seen |= ids
    assert seen == set(made)
    assert (version, len(made)) == (40, 40)


# ---------------------------------------------------------------------- reports


def spend(rng: random.Random, ledger: Ledger, **changes: Any) -> None:
    ledger.post([settle(entry(rng, cached_input_tokens=100, **changes))])


def test_a_report_has_the_published_shape(ledger: Ledger, rng: random.Random) -> None:
    spend(rng, ledger, cost_nano=1_500_000_000, saved_nano=5)
    spend(rng, ledger, cost_nano=250_000_001)
    spend(rng, ledger, team="ads", cost_nano=3)
    ledger.count_refusals({(T0, "default", "search", "prod", "chat", "budget_exceeded"): 4})
    ledger.count_refusals({(T0, "default", "search", "prod", "chat", "budget_exceeded"): 3})
    ledger.count_refusals({(T0 + MINUTE, "default", "idle", "prod", "chat", "rate_limited"): 1})
    tokens = {"input_tokens": 1_000, "output_tokens": 200, "cached_input_tokens": 100}
    nothing = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cached_input_tokens": 0, "saved_usd": "0"}
    assert ledger.report(["team"], T0, T0 + 1) == {
        "rows": [
            {"team": "search", "calls": 2, "cost_usd": "1.750000001", "saved_usd": "0.000000005", "refused": 7}
            | {name: 2 * count for name, count in tokens.items()},
            {"team": "ads", "calls": 1, **tokens, "cost_usd": "0.000000003", "saved_usd": "0", "refused": 0},
            {"team": "idle", **nothing, "cost_usd": "0", "refused": 1},
        ],
        "total": {"calls": 3, "cost_usd": "1.750000004", "saved_usd": "0.000000005", "refused": 8}
        | {name: 3 * count for name, count in tokens.items()},
    }


def test_a_report_of_nothing_has_a_total(ledger: Ledger) -> None:
    report = ledger.report(["team"], T0, T0 + DAY)
    assert report["rows"] == []
    assert (report["total"]["calls"], report["total"]["cost_usd"]) == (0, "0")


def test_days_and_hours_are_those_of_utc_and_in_order(ledger: Ledger, rng: random.Random) -> None:
    midnight = T0 - T0 % DAY + DAY
    spend(rng, ledger, created_at=midnight, cost_nano=9)
    spend(rng, ledger, created_at=midnight - 1, cost_nano=1)
    spend(rng, ledger, created_at=T0, cost_nano=2)
    period = (T0 - DAY, T0 + 3 * DAY)
    days = ledger.report(["day"], *period)["rows"]
    assert [(row["day"], row["cost_usd"]) for row in days] == [
        ("2026-09-21", "0.000000003"),
        ("2026-09-22", "0.000000009"),
    ]
    hours = ledger.report(["hour", "team"], *period)["rows"]
    assert [row["hour"] for row in hours] == ["2026-09-21T14:00:00Z", "2026-09-21T23:00:00Z", "2026-09-22T00:00:00Z"]


def test_every_dimension_can_be_reported(ledger: Ledger, rng: random.Random) -> None:
    spend(rng, ledger, end_user="u1", key_id=None)
    ledger.count_refusals({(T0, "default", "search", "prod", "chat", "rate_limited"): 2})
    by = ["org", "team", "env", "feature", "key", "provider", "model", "end_user", "day", "hour"]
    rows = ledger.report(by, T0, T0 + 1)["rows"]
    shared = {"org": "default", "team": "search", "env": "prod", "feature": "chat", "key": None}
    when = {"day": "2026-09-21", "hour": "2026-09-21T14:00:00Z"}
    called = {"provider": "openai", "model": "gpt-4o", "end_user": "u1"}
    assert [{name: row[name] for name in by} for row in rows] == [
        shared | called | when,
        shared | dict.fromkeys(called) | when,
    ]
    assert [(row["calls"], row["refused"]) for row in rows] == [(1, 0), (0, 2)]
    with pytest.raises(ValueError, match="cannot report by colour"):
        ledger.report(["colour"], T0, T0 + 1)


def test_entries_and_rollups_report_alike(ledger: Ledger, rng: random.Random) -> None:
    for _ in range(40):
        spend(rng, ledger, created_at=T0 + rng.randrange(4 * HOUR), cost_nano=rng.randrange(10**6), end_user="u")
    for since, until in ((T0, T0 + 4 * HOUR), (T0 + 7, T0 + HOUR + 7)):
        rolled = ledger.report(["hour"], since, until)
        exact = ledger.report(["hour", "end_user"], since, until)
        assert exact["total"] == rolled["total"]
        assert [{k: v for k, v in row.items() if k != "end_user"} for row in exact["rows"]] == rolled["rows"]


# ---------------------------------------------------------------------- what the store is told


def test_sums_of_windows(ledger: Ledger, rng: random.Random) -> None:
    spend(rng, ledger, cost_nano=5, end_user="u1", key_id=None)
    spend(rng, ledger, cost_nano=7, created_at=T0 + HOUR - 1, feature="batch")
    spend(rng, ledger, cost_nano=11, created_at=T0 + HOUR)
    spend(rng, ledger, cost_nano=13, team="ads")
    with ledger.snapshot() as snapshot:
        assert snapshot.sums("usd", T0, T0 + HOUR) == {(): 25}
        assert snapshot.sums("usd", T0, 0) == {(): 36}
        assert snapshot.sums("usd", 0, 0) == {(): 36}
        assert snapshot.sums("tokens", T0, T0 + HOUR, where={"team": "search"}) == {(): 2_400}
        assert snapshot.sums("calls", T0, T0 + HOUR, where={"team": "search", "feature": "batch"}) == {(): 1}
        assert snapshot.sums("usd", T0, T0 + HOUR, by=["team"]) == {("search",): 12, ("ads",): 13}
        assert snapshot.sums("usd", T0, T0 + HOUR, by=["key"]) == {("unattributed",): 5, ("k1",): 20}
        assert snapshot.sums("usd", T0, T0 + HOUR, by=["end_user"], where={"team": "search"}) == {
            ("u1",): 5,
            ("unattributed",): 7,
        }
        assert snapshot.sums("usd", T0, T0 + HOUR, by=["model"]) == {("gpt-4o",): 25}
        assert snapshot.sums("usd", T0 + 1, T0 + HOUR + 1) == {(): 18}
        assert snapshot.sums("usd", T0 + DAY, T0 + 2 * DAY) == {}


def test_sums_by_model_are_those_of_the_target_whatever_was_asked_or_served(ledger: Ledger, rng: random.Random) -> None:
    spend(rng, ledger, cost_nano=5, model_requested="smart", model="gpt-4o")
    spend(rng, ledger, cost_nano=7, model_requested="openai/gpt-4o", model="gpt-4o", end_user="u1")
    spend(rng, ledger, cost_nano=11, model_requested="smart", model="claude-opus-5", model_served=None)
    spend(rng, ledger, cost_nano=13, model="", model_served="gpt-3.5")  # written before there was a target's model
    wanted = {("gpt-4o",): 12, ("claude-opus-5",): 11, ("gpt-3.5",): 13}
    with ledger.snapshot() as snapshot:
        assert snapshot.sums("usd", T0, T0 + HOUR, by=["model"]) == wanted
        assert snapshot.sums("usd", T0 - 1, T0 + HOUR, by=["model"]) == wanted  # off the quarter hour: from the entries
        assert snapshot.sums("usd", T0, 0, where={"model": "gpt-4o"}, by=["end_user"]) == {
            ("unattributed",): 5,
            ("u1",): 7,
        }
    assert ledger.rollup_differences() == []
    rows = ledger.report(["model"], T0, T0 + 1)["rows"]
    assert {row["model"]: row["calls"] for row in rows} == {"gpt-4o": 2, "claude-opus-5": 1, "gpt-3.5": 1}


def test_recently_settled_calls_carry_their_charges(ledger: Ledger, rng: random.Random) -> None:
    old = entry(rng, created_at=T0 - 2 * MINUTE, latency_ms=100)
    long_one = entry(rng, created_at=T0 - 2 * MINUTE, latency_ms=2 * MINUTE)
    new = entry(rng, created_at=T0, latency_ms=50)
    better = new._replace(rev=3, cost_nano=77)
    ledger.post([settle(e) for e in (old, long_one, new._replace(rev=1))])
    ledger.post([settle(better)])
    with ledger.snapshot() as snapshot:
        found = {settled.rid: settled for settled in snapshot.settled_since(T0)}
    assert found.keys() == {long_one.event_id, new.event_id}
    assert found[long_one.event_id][1:] == (3, T0, charges(long_one))
    assert found[new.event_id][1:] == (3, T0 + 50, charges(better))


def test_the_charges_of_all_attempts_of_a_call_add_up(ledger: Ledger, rng: random.Random) -> None:
    first = entry(rng, cost_nano=100, created_at=T0 - 10 * MINUTE, latency_ms=5)
    second = first._replace(attempt_id=new_id(rng), cost_nano=30, latency_ms=20 * MINUTE)
    ledger.post([settle(first), settle(second)])
    with ledger.snapshot() as snapshot:
        (found,) = snapshot.settled_since(T0)
    assert found.charges[0] == BucketCharge(f"usd|hour|{T0}|team=search", "usd", 130, T0 + HOUR)
    assert found.at == T0 + 10 * MINUTE


def test_a_snapshot_does_not_see_later_rows(ledger: Ledger, rng: random.Random) -> None:
    spend(rng, ledger, cost_nano=5)
    with ledger.snapshot() as snapshot:
        assert snapshot.sums("usd", T0, T0 + HOUR) == {(): 5}
        spend(rng, ledger, cost_nano=7)
        assert len(list(snapshot.settled_since(T0))) == 1
        assert snapshot.sums("usd", T0, T0 + HOUR) == {(): 5}


# ---------------------------------------------------------------------- the database itself


@pytest.mark.parametrize("url", ["sqlite:///{}", "postgresql://nobody:hunter2@127.0.0.1:1/x"])
def test_a_ledger_that_is_away_says_so(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url.format(tmp_path), pepper=PEPPER)
    actions: list[Callable[[], Any]] = [ledger.check, ledger.migrate, ledger.keys.list, lambda: ledger.post([])]
    for action in actions:
        with pytest.raises(LedgerUnavailable) as caught:
            action()
        assert "hunter2" not in str(caught.value)
    ledger.close()


def test_a_forked_child_has_connections_of_its_own(ledger: Ledger, rng: random.Random, tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    shipper: Shipper = ledger.shipper(spool, interval=0.01)
    shipper.start()
    spool.append(settle(entry(rng)))
    assert shipper.flush(10)
    child = os.fork()
    if child == 0:
        spool.append(settle(entry(random.Random(99))))
        shipper.start()
        os._exit(0 if shipper.flush(10) and shipper.stop() else 1)
    assert os.waitpid(child, 0)[1] == 0
    spool.append(settle(entry(rng)))
    assert shipper.stop()
    assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 3
