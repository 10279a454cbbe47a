"""The example project: its own tests, its migrations beside the ledger's, and what its pages do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import postgres

EXAMPLE = Path(__file__).parents[2] / "examples" / "django_app"
CLEAN = {
    k: v for k, v in os.environ.items() if not k.startswith(("LLMGUARD_", "DJANGO_")) and not k.endswith("_API_KEY")
}
SECRETS = {
    "LLMGUARD_SECRETS__PEPPER": "0123456789abcdef" * 4,
    "LLMGUARD_SECRETS__SIGNING": json.dumps(["fedcba9876543210" * 4]),
    "LLMGUARD_SECRETS__CACHE": json.dumps(["02468ace13579bdf" * 4]),
}
Manage = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example."""
    home = tmp_path / "project"
    shutil.copytree(EXAMPLE, home, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3*", "llmguard.db*", "spool"))
    return home


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.running() as url:
        yield url


def manager(project: Path, **env: str) -> Manage:
    """Runs `manage.py`, and returns what it says."""

    def manage(*arguments: str, status: int = 0) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=project, env=CLEAN | env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return manage


def test_on_sqlite(project: Path) -> None:
    manage = manager(project)
    said = manage("test")
    assert "OK" in said
    assert not (project / "llmguard.db").exists()
    assert not (project / "spool").exists()
    said = manage("check", "--deploy", "--database", "default")
    assert re.findall(r"llmguard\.[EW]\d+", said) == ["llmguard.W002"]


def test_the_ledger_in_the_project_s_postgresql(project: Path, server: str) -> None:
    with postgres.database(server, "helpdesk") as url:
        where = psycopg.conninfo.conninfo_to_dict(url)
        place = {
            "DATABASE": "helpdesk",
            "PGUSER": "postgres",
            "PGHOST": str(where["host"]),
            "PGPORT": str(where["port"]),
        }
        manage = manager(project, **place, **SECRETS)
        assert "llmguard.W003" in manage("check", "--database", "default")
        assert "Brought llmguard's tables up to date" in manage("migrate")
        made = tables(url)
        assert {"tickets_ticket", "llmguard_keys", "llmguard_alembic_version", "django_migrations"} <= made

        assert "No changes detected" in manage("makemigrations", "--check")
        manage("migrate", "tickets", "zero", "-v0")
        assert tables(url) == made - {"tickets_ticket"}
        manage("migrate", "-v0")
        assert tables(url) == made
        assert query(url, "SELECT count(*) FROM django_migrations WHERE app = 'llmguard'") == [(0,)]

        key = json.loads(manage("llmguard", "keys", "create", "--team", "t", "--env", "e", "--feature", "f", "--json"))
        assert query(url, "SELECT team FROM llmguard_keys WHERE id = %s", key["id"]) == [("t",)]

        said = manage("test", "--parallel", "2", "-v2")
        assert "OK" in said
        assert said.count("Cloning test database") == 2
        databases = {name for (name,) in query(url, "SELECT datname FROM pg_database")}
        assert not {name for name in databases if name.startswith("test_")}
        assert query(url, "SELECT count(*) FROM llmguard_entries") == [(0,)]
        report = json.loads(manage("llmguard", "report", "--by", "team", "--json"))
        assert report["rows"] == []


def tables(url: str) -> set[str]:
    """The tables of a database."""
    return {name for (name,) in query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def query(url: str, text: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with psycopg.connect(url) as connection:
        return connection.execute(text, values).fetchall()  # type: ignore[arg-type]
