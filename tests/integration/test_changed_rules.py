"""A configuration that changed is on the audit trail before the process that has it is ready, and once for all."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmguard.guard import Guard

TEXT = """
providers: {sandbox: {dialect: sandbox}}
budgets: [{name: search, scope: {team: search}, limit: LIMIT, window: hour}]
audit: {payloads: PAYLOADS}
"""


class Place:
    """A configuration file with the ledger beside it."""

    def __init__(self, home: Path) -> None:
        self.file = home / "llmguard.yaml"

    def start(self, limit: str = "$50", payloads: str = "off", *, problem: str | None = None) -> None:
        """A process begins with this configuration and ends; ``problem`` is what keeps it from being ready."""
        self.file.write_text(TEXT.replace("LIMIT", limit).replace("PAYLOADS", payloads))
        guard = Guard(self.file)
        try:
            service = guard.process()
            until = time.monotonic() + 10
            while service.not_ready() != [] and problem is None:
                assert time.monotonic() < until, service.not_ready()
                time.sleep(0.01)
            while problem is not None and problem not in str(service.health.ledger):
                assert time.monotonic() < until, service.not_ready()
                time.sleep(0.01)
        finally:
            guard.close()

    def changes(self) -> list[tuple[str, list[str]]]:
        ledger = Guard(self.file).ledger()
        records = [record for record in ledger.audit.export() if record.action == "config.changed"]
        assert ledger.audit.verify().flaws == []
        ledger.close()
        return [(record.subject, json.loads(record.details)["changes"]) for record in records]

    def execute(self, statement: str) -> None:
        ledger = Guard(self.file).ledger()
        with ledger.engine.begin() as connection:
            connection.execute(sa.text(statement))
        ledger.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def test_changes_are_recorded_and_restarts_are_not(place: Place) -> None:
    place.start()
    place.start()
    place.start("$80")
    place.start("$80", "redacted")
    place.start("$80", "redacted")
    file = str(place.file)
    assert place.changes() == [
        (file, ["the first of this source"]),
        (file, ["budgets.search: limit $50 -> $80"]),
        (file, ["audit: payloads off -> redacted"]),
    ]


def test_a_change_that_cannot_be_recorded_keeps_the_process_from_being_ready(place: Place) -> None:
    place.start()
    place.execute("ALTER TABLE llmguard_audit_head RENAME TO away")
    place.start()  # nothing has changed
    place.start("$5000", problem="llmguard_audit_head")
    place.execute("ALTER TABLE away RENAME TO llmguard_audit_head")
    assert [changes for _, changes in place.changes()] == [["the first of this source"]]
    place.start("$5000")
    assert place.changes()[-1][1] == ["budgets.search: limit $50 -> $5000"]
