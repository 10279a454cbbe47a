"""`llmguard budgets list`: amounts of the ledger, one row per bucket."""

from __future__ import annotations

import random
import time
from datetime import datetime
from typing import Any

from llmguard.core.windows import window_bounds
from tests.support.cli import SANDBOX, Cli
from tests.support.ledger import entry, settle

BUDGETS = """
budgets:
  - {name: all, scope: {}, limit: $2.5, window: month, timezone: Europe/Berlin}
  - {name: each, scope: {team: "*", env: prod}, limit: 1M tokens, window: total}
"""
RNG = random.Random(11)


def post(cli: Cli, **changes: Any) -> None:
    cli.ledger().post([settle(entry(RNG, created_at=time.time_ns() // 1_000_000, **changes))])


def test_a_budget_without_a_star_is_there_before_it_is_used(cli: Cli) -> None:
    cli.configure(SANDBOX + BUDGETS)
    rows = cli.json("budgets", "list")
    end = window_bounds("month", "Europe/Berlin", time.time_ns() // 1_000_000)[1]
    assert rows[0] == {
        "rule": "all",
        "scope": {},
        "window": "month",
        "unit": "usd",
        "limit": "2.5",
        "settled": "0",
        "orphan": None,
        "held": None,
        "remaining": "2.5",
        "reset_at": rows[0]["reset_at"],
        "mode": "enforce",
    }
    assert datetime.fromisoformat(rows[0]["reset_at"]).timestamp() * 1_000 == end
    assert [row["rule"] for row in rows] == ["all", "unattributed-team"]


def test_a_star_has_a_row_for_each_value_that_was_charged(cli: Cli) -> None:
    cli.configure(SANDBOX + BUDGETS)
    post(cli)
    post(cli, team="growth", input_tokens=999_900)
    rows = {(row["rule"], *row["scope"].values()): row for row in cli.json("budgets", "list")}
    amounts = {key: (row["settled"], row["remaining"], row["reset_at"] is None) for key, row in rows.items()}
    assert amounts == {
        ("all",): ("0.024691356", "2.475308644", False),
        ("each", "search", "prod"): ("1200", "998800", True),
        ("each", "growth", "prod"): ("1000100", "0", True),
        ("unattributed-team", "unattributed"): ("0", "1", False),
    }


def test_the_budget_of_a_key_is_one_too(cli: Cli) -> None:
    cli.configure(SANDBOX)
    key = cli.json("keys", "create", "--team", "search", "--budget", "$5/day")["id"]
    post(cli, key_id=key)
    (row,) = [row for row in cli.json("budgets", "list") if row["scope"] == {"key": key}]
    assert (row["rule"], row["window"], row["limit"], row["settled"]) == (f"key {key}", "day", "5", "0.012345678")


def test_people_are_told_what_is_not_visible(cli: Cli) -> None:
    cli.configure(SANDBOX + BUDGETS)
    result = cli.run("budgets", "list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:6] == ["all", "everyone", "month", "2.5", "0", "-"]
    assert result.stderr == "llmguard: held: live calls of the serving process are not visible here\n"
    assert cli.run("budgets", "list", "--json").stderr == ""
