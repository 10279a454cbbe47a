"""`llmguard migrate`: looking changes nothing, and doing is done once."""

from __future__ import annotations

import sqlite3

import pytest

from llmguard.ledger.migrate import head
from tests.support.cli import SANDBOX, Cli


@pytest.fixture(autouse=True)
def configured(cli: Cli) -> None:
    cli.configure(SANDBOX + "ledger: sqlite:///spend.db\n")


def test_check_makes_nothing_and_says_what_to_do(cli: Cli) -> None:
    error = cli.fails(1, "migrate", "--check")
    assert (
        error == f"llmguard: the ledger is at revision none, and this program needs {head()}: run `llmguard migrate`\n"
    )
    assert cli.files() == {"llmguard.yaml"}


def test_migrate_then_check(cli: Cli) -> None:
    assert cli.ok("migrate") == f"the ledger is at revision {head()}\n"
    assert cli.json("migrate", "--check") == {"revision": head(), "head": head(), "current": True}
    assert cli.ok("migrate") == f"the ledger is at revision {head()}\n"
    assert cli.files() == {"llmguard.yaml", "spend.db"}
    with sqlite3.connect("spend.db") as database:
        assert database.execute("SELECT count(*) FROM ledger_entries").fetchone() == (0,)


def test_a_database_of_another_revision(cli: Cli) -> None:
    cli.ok("migrate")
    with sqlite3.connect("spend.db") as database:
        database.execute("UPDATE llmguard_alembic_version SET version_num = '0000'")
    assert "is at revision 0000, and" in cli.fails(1, "migrate", "--check")


def test_sql_prints_the_statements_and_makes_nothing(cli: Cli) -> None:
    script = cli.ok("migrate", "--sql")
    assert cli.files() == {"llmguard.yaml"}
    with sqlite3.connect(":memory:") as database:
        database.executescript(script)
        assert database.execute("SELECT count(*) FROM ledger_entries").fetchone() == (0,)
        assert database.execute("SELECT version_num FROM llmguard_alembic_version").fetchone() == (head(),)
