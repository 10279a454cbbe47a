"""`llmguard report`: sums of rows, and of records that a dead process left behind."""

from __future__ import annotations

import csv
import io
import random
import time
from pathlib import Path
from typing import Any

import pytest

from llmguard.ledger import Spool
from tests.support.cli import SANDBOX, Cli
from tests.support.ledger import entry, hold, sent, settle

HOUR = 3_600_000
RNG = random.Random(7)
ZERO = {
    "calls": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "cached_input_tokens": 0,
    "cost_usd": "0",
    "saved_usd": "0",
    "refused": 0,
}


@pytest.fixture(autouse=True)
def configured(cli: Cli) -> None:
    cli.configure(SANDBOX)


def post(cli: Cli, hours_ago: int, **changes: Any) -> None:
    now = time.time_ns() // 1_000_000
    cli.ledger().post([settle(entry(RNG, created_at=now - hours_ago * HOUR, **changes))])


def test_an_empty_ledger(cli: Cli) -> None:
    assert cli.json("report") == {"rows": [], "total": ZERO}


def test_groups_sums_and_total(cli: Cli) -> None:
    post(cli, 1)
    post(cli, 2, feature="rank", cost_nano=1, cost_output_nano=1, cost_input_nano=0)
    post(cli, 3, saved_nano=5)
    post(cli, 24 * 8)
    found = cli.json("report", "--by", "team,feature", "--since", "7d")
    assert found["rows"] == [
        {"team": "search", "feature": "chat", **ZERO}
        | {"calls": 2, "input_tokens": 2_000, "output_tokens": 400, "cached_input_tokens": 256}
        | {"cost_usd": "0.024691356", "saved_usd": "0.000000005"},
        {"team": "search", "feature": "rank", **ZERO}
        | {"calls": 1, "input_tokens": 1_000, "output_tokens": 200, "cached_input_tokens": 128}
        | {"cost_usd": "0.000000001"},
    ]
    assert (found["total"]["calls"], found["total"]["cost_usd"]) == (3, "0.024691357")
    assert cli.json("report", "--since", "30d")["total"]["calls"] == 4
    assert cli.json("report", "--since", "30d", "--until", "7d")["total"]["calls"] == 1


def test_dates_are_days_of_utc(cli: Cli) -> None:
    cli.ledger().post([settle(entry(RNG, created_at=1_790_000_100_000))])  # 2026-09-21T14:15:00Z
    found = cli.json("report", "--by", "day,hour", "--since", "2026-09-21", "--until", "2026-09-22")
    assert [(row["day"], row["hour"]) for row in found["rows"]] == [("2026-09-21", "2026-09-21T14:00:00Z")]
    assert cli.json("report", "--since", "2026-09-22", "--until", "2026-09-23")["rows"] == []
    assert cli.json("report", "--since", "2026-09-21T16:15:00+02:00", "--until", "2026-09-22")["total"]["calls"] == 1


def test_csv_keeps_text_from_becoming_a_formula(cli: Cli) -> None:
    post(cli, 1, feature="=1+1", end_user=None, cost_nano=-5, cost_input_nano=0, cost_output_nano=-5)
    rows = list(csv.DictReader(io.StringIO(cli.ok("report", "--by", "feature,end_user", "--csv"))))
    assert [(row["feature"], row["end_user"], row["cost_usd"], row["calls"]) for row in rows] == [
        ("'=1+1", "", "-0.000000005", "1")
    ]


def test_people_get_a_table_with_a_total(cli: Cli) -> None:
    post(cli, 1)
    head, row, total = (line.split() for line in cli.ok("report", "--by", "team").splitlines())
    assert head == ["team", *ZERO]
    assert row == ["search", "1", "1000", "200", "128", "0.012345678", "0", "0"]
    assert total == ["total", *row[1:]]


def test_what_a_dead_process_left_is_posted_first(cli: Cli) -> None:
    cli.ledger()
    done, cut, unsent = (entry(RNG, created_at=time.time_ns() // 1_000_000) for _ in range(3))
    leave_behind(cli.home / "spool", hold(done), sent(done), settle(done), hold(cut), sent(cut), hold(unsent))
    total = cli.json("report", "--by", "team")["total"]
    assert (total["calls"], total["cost_usd"]) == (2, "0.032345678")
    assert list((cli.home / "spool").iterdir()) == []
    assert cli.json("report", "--by", "team")["total"] == total


def leave_behind(directory: Path, *records: Any) -> None:
    spool = Spool(directory)
    for record in records:
        spool.append(record)
    spool.close(0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "team,colour"], "--by cannot be colour; it can be org, team, env, feature, key"),
        (["--since", "yesterday"], "--since 'yesterday': write 7d, 12h or a date such as 2026-11-01"),
        (["--until", "7"], "--until '7': write 7d"),
        (["--since", "1d", "--until", "2d"], "--until 2d is before --since 1d"),
        (["--json", "--csv"], "--json and --csv: choose one"),
    ],
)
def test_wrong_usage(cli: Cli, arguments: list[str], said: str) -> None:
    assert said in cli.fails(2, "report", *arguments)
    assert cli.files() == {"llmguard.yaml"}
