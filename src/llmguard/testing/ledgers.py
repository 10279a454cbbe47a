"""What every ledger has to do, as tests to inherit.

::

    class TestOurPostgres(LedgerSuite):
        @pytest.fixture
        def ledger(self):
            ledger = Ledger("postgresql://...", pepper=b"...")
            ledger.migrate()
            yield ledger
            ledger.close()

Each call stands in it once, however often its record is delivered, and every sum is right.
"""

from __future__ import annotations

import os
import random
import threading
from typing import Any, Final

import pytest
import sqlalchemy as sa

from llmguard.core.records import SettleRecord
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger, rollups
from llmguard.ledger.engine import reading
from llmguard.testing.calls import T0, entry, new_id, settle

_QUARTER: Final = 900_000

COLUMNS: Final = (
    "event_id attempt_id kind created_at org team env feature end_user principal key_id task_id tree_id trace_id "
    "provider model_requested model_served dialect endpoint stream status input_tokens output_tokens "
    "cached_input_tokens cache_write_tokens reasoning_tokens cost_nano cost_usd saved_nano usage_source "
    "price_version cache finish_reason latency_ms ttft_ms"
)
"""The columns of the view `ledger_entries`, on which people's queries rely."""


def rows(ledger: Ledger, query: str) -> list[tuple[Any, ...]]:
    """What a query finds."""
    with reading(ledger.engine) as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def one(ledger: Ledger, query: str) -> Any:
    """The first value that a query finds."""
    return rows(ledger, query)[0][0]


class LedgerSuite:
    """Inherit it in a class named `Test…` and override the fixture `ledger`."""

    @pytest.fixture
    def ledger(self) -> Any:
        """An empty ledger whose schema is the present one."""
        raise NotImplementedError("override the fixture `ledger`: an empty, migrated Ledger")

    @pytest.fixture
    def rng(self) -> random.Random:
        """Chance, repeatable: its seed is printed, and `SEED` in the environment sets it."""
        seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
        print(f"SEED={seed}")
        return random.Random(seed)

    def test_a_settled_call_is_one_row_that_reads_well(self, ledger: Ledger, rng: random.Random) -> None:
        """Times in UTC, money exact, text in any alphabet."""
        call = entry(rng, created_at=T0 + 123, metadata='{"k": "ü"}', cost_nano=1_234_567_891, key_id=None)
        assert ledger.post([settle(call)]) == 1
        ((event_id, created_at, cost_nano, cost_usd, stream, metadata),) = rows(
            ledger,
            "SELECT v.event_id, v.created_at, v.cost_nano, v.cost_usd, v.stream, e.metadata "
            "FROM ledger_entries v JOIN llmguard_entries e ON e.event_id = v.event_id",
        )
        assert str(event_id) == call.event_id
        readable = created_at if isinstance(created_at, str) else created_at.isoformat(timespec="milliseconds")
        assert readable.replace("+00:00", "Z") == "2026-09-21T14:15:00.123Z"
        assert (cost_nano, str(cost_usd)) == (1_234_567_891, "1.234567891")
        assert bool(stream) is True
        assert metadata == '{"k": "ü"}'

    def test_the_view_has_the_published_columns(self, ledger: Ledger) -> None:
        """Those of :data:`COLUMNS`, in this order."""
        columns = [column["name"] for column in sa.inspect(ledger.engine).get_columns("ledger_entries")]
        assert columns == COLUMNS.split()

    def test_a_record_delivered_again_changes_nothing(self, ledger: Ledger, rng: random.Random) -> None:
        """In one batch, in the next one, and beside a new one."""
        record = settle(entry(rng))
        assert ledger.post([record, record]) == 1
        assert ledger.post([record]) == 0
        assert ledger.post([settle(entry(rng)), record]) == 1
        assert one(ledger, "SELECT sum(cost_nano) FROM llmguard_entries") == 2 * 12_345_678
        assert one(ledger, "SELECT sum(calls) FROM llmguard_rollups") == 2

    def test_a_higher_revision_is_a_row_of_differences(self, ledger: Ledger, rng: random.Random) -> None:
        """What is known better later corrects what was known before; older word changes nothing."""
        first = entry(rng, rev=1, cost_nano=900, input_tokens=10, output_tokens=90, cached_input_tokens=None)
        better = first._replace(rev=2, cost_nano=800, output_tokens=80, usage_source="counted")
        best = first._replace(rev=3, cost_nano=850, output_tokens=85, cached_input_tokens=5, usage_source="provider")
        assert [ledger.post([settle(e)]) for e in (first, best, better, first, best)] == [1, 1, 0, 0, 0]
        found = rows(ledger, "SELECT kind, rev, cost_nano, output_tokens, calls FROM llmguard_entries ORDER BY rev")
        assert found == [("POST", 1, 900, 90, 1), ("ADJUST", 3, -50, -5, 0)]
        assert rows(ledger, "SELECT sum(cost_nano), sum(calls), sum(cached_input_tokens) FROM llmguard_rollups") == [
            (850, 1, 5)
        ]

    def test_revisions_within_one_batch_count_in_their_order(self, ledger: Ledger, rng: random.Random) -> None:
        """Their sum is what the last one says."""
        first = entry(rng, rev=0, cost_nano=900)
        revisions = ((1, 500), (0, 900), (2, 700), (3, 650))
        records = [settle(first._replace(rev=rev, cost_nano=cost)) for rev, cost in revisions]
        assert ledger.post(records) == 3
        assert one(ledger, "SELECT sum(cost_nano) FROM llmguard_entries") == 650

    def test_attempts_are_rows_of_one_call(self, ledger: Ledger, rng: random.Random) -> None:
        """Both cost money, and it is one call."""
        first = entry(rng, cost_nano=100, provider="openai")
        second = first._replace(attempt_id=new_id(rng), cost_nano=30, provider="anthropic", model_served=None)
        assert ledger.post([settle(first)]) == 1
        assert ledger.post([settle(second), settle(first)]) == 1
        assert rows(ledger, "SELECT provider, model, calls, cost_nano FROM llmguard_rollups ORDER BY cost_nano") == [
            ("anthropic", "gpt-4o", 0, 30),
            ("openai", "gpt-4o", 1, 100),
        ]

    def test_rollups_rebuilt_are_the_rollups_kept(self, ledger: Ledger, rng: random.Random) -> None:
        """Random calls, repeated, corrected and retried, in random batches."""
        pool: list[SettleRecord] = []
        for _ in range(60):
            call = entry(
                rng,
                rev=rng.randrange(3),
                created_at=T0 + rng.randrange(3 * _QUARTER),
                team=rng.choice(["search", "ads"]),
                key_id=rng.choice([None, "k1", "k2"]),
                model_served=rng.choice([None, "", "m1"]),
                model=rng.choice(["", "m1", "m2"]),
                cached_input_tokens=rng.choice([None, 7]),
                cost_nano=rng.randrange(1_000),
            )
            pool.append(settle(call))
            if rng.random() < 0.4:
                pool.append(
                    settle(call._replace(rev=3, cost_nano=rng.randrange(1_000), key_id=rng.choice([None, "k1"])))
                )
            if rng.random() < 0.2:
                pool.append(settle(call._replace(attempt_id=new_id(rng), cost_nano=rng.randrange(1_000))))
        deliveries = pool + rng.choices(pool, k=60)
        rng.shuffle(deliveries)
        while deliveries:
            size = rng.randrange(1, 40)
            ledger.post(deliveries[:size])
            del deliveries[:size]
        kept = rows(ledger, "SELECT * FROM llmguard_rollups ORDER BY 1, 2, 3, 4, 5, 6, 7, 8")
        assert ledger.rollup_differences() == []
        ledger.rebuild_rollups()
        assert rows(ledger, "SELECT * FROM llmguard_rollups ORDER BY 1, 2, 3, 4, 5, 6, 7, 8") == kept
        best: dict[tuple[str, str], int] = {}
        for record in sorted(pool, key=lambda record: record.entry.rev):
            best[record.entry.event_id, record.entry.attempt_id] = record.entry.cost_nano
        corrected = {(r.entry.event_id, r.entry.attempt_id) for r in pool if r.entry.rev == 3}
        plain = sum(r.entry.cost_nano for r in pool if (r.entry.event_id, r.entry.attempt_id) not in corrected)
        total = plain + sum(cost for key, cost in best.items() if key in corrected)
        assert one(ledger, "SELECT sum(cost_nano) FROM llmguard_entries") == total
        assert one(ledger, "SELECT sum(calls) FROM llmguard_rollups") == 60

    def test_a_wrong_rollup_is_found(self, ledger: Ledger, rng: random.Random) -> None:
        """A sum that somebody changed differs from its entries."""
        ledger.post([settle(entry(rng))])
        with ledger.engine.begin() as connection:
            connection.execute(sa.text("UPDATE llmguard_rollups SET cost_nano = cost_nano + 1"))
        with reading(ledger.engine) as connection:
            assert len(rollups.differences(connection)) == 1

    def test_writers_at_the_same_time_post_each_call_once(self, ledger: Ledger, rng: random.Random) -> None:
        """Four writers, each with all calls in an order of its own."""
        records = [settle(entry(rng, feature=f"f{n % 7}")) for n in range(200)]
        failures: list[BaseException] = []
        counts: list[int] = []

        def write(mine: list[SettleRecord]) -> None:
            posted = 0
            for at in range(0, len(mine), 20):
                for _ in range(50):
                    try:
                        posted += ledger.post(mine[at : at + 20])
                        break
                    except (
                        LedgerUnavailable,
                        sa.exc.IntegrityError,
                        ledger.engine.dialect.loaded_dbapi.Error,
                    ) as error:
                        last = error
                else:
                    failures.append(last)
            counts.append(posted)

        threads = [threading.Thread(target=write, args=(rng.sample(records, len(records)),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sum(counts) == 200
        assert one(ledger, "SELECT count(*) FROM llmguard_entries") == 200
        assert ledger.rollup_differences() == []
