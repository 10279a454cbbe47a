"""Migrations: from nothing and from every released schema to what the models say."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger, migrate
from llmguard.ledger.engine import reading
from llmguard.ledger.models import metadata
from tests.support import postgres
from tests.support.ledger import PEPPER, T0

FROZEN = sorted((Path(__file__).parent / "frozen").glob("*.sql"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'a % b.db'}"
        return
    with postgres.database(request.getfixturevalue("server"), "fresh") as fresh:
        yield fresh


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = Ledger(url, pepper=PEPPER)
    yield opened
    opened.close()


def differences(ledger: Ledger) -> list[object]:
    """What the models say and the database has not, or the other way round."""
    options = {"version_table": migrate.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    with reading(ledger.engine) as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_an_empty_database_becomes_what_the_models_say(ledger: Ledger) -> None:
    with pytest.raises(LedgerUnavailable, match="llmguard migrate"):
        ledger.check()
    ledger.migrate()
    ledger.check()
    assert differences(ledger) == []
    ledger.migrate()
    names = set(sa.inspect(ledger.engine).get_table_names())
    assert names == {*metadata.tables, migrate.VERSION_TABLE}
    assert all(name.startswith("llmguard_") for name in names)


def test_another_version_is_not_taken_for_ours(ledger: Ledger) -> None:
    ledger.migrate()
    with ledger.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = 'later'"))
    with pytest.raises(LedgerUnavailable):
        ledger.check()


def test_the_tables_of_a_host_application_are_left_alone(ledger: Ledger) -> None:
    with ledger.engine.begin() as connection:
        for name in ("alembic_version", "entries", "keys"):
            connection.execute(sa.text(f"CREATE TABLE {name} (a TEXT)"))
            connection.execute(sa.text(f"INSERT INTO {name} VALUES ('mine')"))
    ledger.migrate()
    ledger.check()
    with reading(ledger.engine) as connection:
        for name in ("alembic_version", "entries", "keys"):
            assert connection.scalar(sa.text(f"SELECT a FROM {name}")) == "mine"


def test_the_offline_script_makes_the_same_database(ledger: Ledger) -> None:
    script = migrate.sql(ledger.url)
    assert script.count("BEGIN;") == script.count("COMMIT;") == 1
    with ledger.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if ledger.engine.dialect.name == "sqlite":
            driver.executescript(script)
        else:
            driver.execute(script)
    ledger.check()
    assert differences(ledger) == []


def test_processes_that_migrate_at_once_take_turns(url: str, ledger: Ledger) -> None:
    code = "import sys; from llmguard.ledger import Ledger; Ledger(sys.argv[1], pepper=b'').migrate()"
    started = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0, 0], ended
    ledger.check()
    assert differences(ledger) == []


def test_every_schema_has_a_frozen_database() -> None:
    assert FROZEN[-1].stem == migrate.head()


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda path: path.stem)
def test_a_frozen_database_is_upgraded_and_keeps_its_rows(frozen: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(frozen.read_text())
    connection.close()
    ledger = Ledger(f"sqlite:///{path}", pepper=PEPPER)
    ledger.migrate()
    ledger.check()
    assert differences(ledger) == []
    assert ledger.rollup_differences() == []
    total = ledger.report([], T0, T0 + 1)["total"]
    assert (total["calls"], total["cost_usd"], total["refused"]) == (2, "0.012346528", 7)
    (key,) = ledger.keys.list()
    assert (key.team, key.budget, key.status(T0)) == ("search", "$5/day", "active")
    assert ledger.objects.owner("file", "openai", "f1") == ("default", "ads")
    ledger.close()


@pytest.mark.parametrize("frozen", [path for path in FROZEN if path.stem >= "0003"], ids=lambda path: path.stem)
def test_a_frozen_audit_trail_still_verifies(frozen: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(frozen.read_text())
    connection.close()
    ledger = Ledger(f"sqlite:///{path}", pepper=PEPPER)
    ledger.migrate()
    assert (ledger.audit.verify().records, ledger.audit.verify().flaws) == (2, [])
    assert [(row.rule, row.cost_nano) for row in ledger.trips.list()] == [("paid_attempts", 12_345_678)]
    assert [(kept.task, kept.options) for kept in ledger.dead_letters.list()] == [
        ("app.summarise", '{"queue": "slow"}')
    ]
    ledger.close()


def test_frozen_payloads_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parent / "frozen" / "0004.sql").read_text())
    connection.close()
    ledger = Ledger(f"sqlite:///{path}", pepper=PEPPER)
    ledger.migrate()
    payload = ledger.payloads.read("01a0c451-f2a0-7ccc-9e2f-eb89414c343c", "test")
    assert payload is not None
    assert (payload.team, payload.prompt, payload.reply, payload.redacted) == ("search", '{"q": "hi"}', "hello", True)
    ledger.close()


def test_a_new_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", pepper=PEPPER)
        ledger.migrate()
        assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}["ledger.db"] == 0o600
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        ledger.close()
    finally:
        os.umask(before)
