"""Notices with a real ledger and a real receiver: one line, one count, one row and one alert for each trip."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.notes import BudgetNote, ContextNote, DriftNote, TripNote
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger
from llmguard.runtime import notices as module
from llmguard.runtime.notices import Notices
from llmguard.sinks.webhook import Webhook, alert_key
from tests.support.ledger import T0, letter, sqlite_ledger
from tests.support.receiver import Receiver, receiver

KEY = alert_key(b"signing secret")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with sqlite_ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow at once."""
    monkeypatch.setattr(module, "_PAUSES", (0.01,) * 3)
    monkeypatch.setattr(module, "_LEDGER_PAUSE", 0.01)


def hook(there: Receiver, *on: str) -> Webhook:
    return Webhook(there.url, on or ("budget", "trip", "drift"), [KEY])


def tripped(**changes: Any) -> TripNote:
    known: dict[str, Any] = {
        "scope": "task",
        "name": "task:t1",
        "rule": "budget",
        "limit": 5_000_000_000,
        "seen": 5_250_000_000,
        "at": T0,
        "unit": "usd",
        "team": "growth",
        "env": "prod",
        "feature": "summaries",
        "task": "app.summarise",
        "task_id": "t1",
        "tree_id": "root",
        "cost_nano": 5_250_000_000,
    }
    return TripNote(**(known | changes))


def warned(**changes: Any) -> TripNote:
    known = {"kind": "warned", "rule": "max_calls", "limit": 500, "seen": 250, "unit": "calls", "cost_nano": 0}
    return tripped(**(known | changes))


def test_a_trip_is_told_once_everywhere(ledger: Ledger, there: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices(ledger, [hook(there)], "7-aa")
    notices.note(tripped())
    assert notices.stop()
    (row,) = ledger.trips.list()
    assert (row.scope, row.name, row.rule, row.allowed, row.seen, row.unit, row.task, row.task_id, row.tree_id) == (
        *("task", "task:t1", "budget", 5_000_000_000, 5_250_000_000, "usd", "app.summarise", "t1", "root"),
    )
    assert (row.at, row.cost_nano, row.team, row.env, row.feature) == (T0, 5_250_000_000, "growth", "prod", "summaries")
    (record,) = ledger.audit.export()
    assert (record.actor, record.action, record.subject) == ("process 7-aa", "trip", "task:t1")
    assert json.loads(record.details)["id"] == row.id
    (line,) = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert line.getMessage() == (
        "runaway: task app.summarise t1 of growth/summaries (prod) was stopped by budget ($5.25 of $5, $5.25 spent); "
        f"`llmguard trips show {row.id}`"
    )
    (got,) = there.got
    assert (got.alert["id"], got.alert["type"], got.alert["text"]) == (row.id, "trip", line.getMessage())
    assert got.alert["data"] | {"limit": "5", "seen": "5.25", "cost_usd": "5.25"} == got.alert["data"]
    assert notices.events == {("trip", "budget"): 1, ("alert", "delivered"): 1, ("row", "written"): 1}


def test_a_warning_is_one_log_line_for_each_kind_of_work_and_rule(
    ledger: Ledger, there: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    notices = Notices(ledger, [hook(there)], "7-aa")
    for number in range(3):
        for rule in ("max_calls", "max_tree_calls"):
            notices.note(warned(name=f"task:{number}", rule=rule))
        for feature in ("chat", "mail"):
            notices.note(warned(scope="feature", task=None, task_id=None, feature=feature))
    notices.note(warned(task="app.other", task_id="t9", advice="set max_calls"))
    assert notices.stop()
    lines = [entry.getMessage() for entry in caplog.records]
    assert len(lines) == 5
    assert lines[0] == (
        "runaway: task app.summarise t1 of growth/summaries (prod) has come to max_calls (250 calls of 500 calls), "
        "and runs on"
    )
    assert lines[2].startswith("runaway: growth/chat (prod) has come to max_calls")
    assert lines[-1].startswith("runaway: task app.other t9 of growth/summaries")
    assert lines[-1].endswith("and runs on; set max_calls")
    assert (there.got, ledger.trips.list()) == ([], [])
    assert notices.events == {("warning", "max_calls"): 10, ("warning", "max_tree_calls"): 3}


def test_a_budget_has_the_same_id_whichever_process_tells(ledger: Ledger, there: Receiver) -> None:
    note = BudgetNote(
        f"usd|hour|{T0}|team=search", "hourly", {"team": "search"}, "usd", 50_000_000_000, 40_000_000_000, "hour",
        T0 + 3_600_000, T0 + 5,
    )  # fmt: skip
    for owner in ("7-aa", "8-bb"):
        notices = Notices(ledger, [hook(there)], owner)
        notices.note(note)
        assert notices.stop()
    first, second = (got.alert for got in there.got)
    assert first == second
    assert first["text"] == ("budget hourly (team=search): 80% of $50 an hour spent, until 2026-09-21T15:15:00Z")
    assert first["data"] == {
        "rule": "hourly",
        "scope": {"team": "search"},
        "unit": "usd",
        "limit": "50",
        "threshold": "40",
        "threshold_ppm": 800_000,
        "window": "hour",
        "reset_at": "2026-09-21T15:15:00Z",
    }


def test_receivers_hear_what_they_asked_for(ledger: Ledger, there: Receiver) -> None:
    with receiver() as other:
        notices = Notices(ledger, [hook(there, "trip"), hook(other, "drift", "budget")], "7-aa")
        notices.note(tripped())
        notices.note(DriftNote(3, T0))
        assert notices.stop()
        assert [got.alert["type"] for got in there.got] == ["trip"]
        assert [(got.alert["type"], got.alert["data"]) for got in other.got] == [("drift", {"calls": 3})]


def test_an_alert_is_repeated_with_its_id_and_given_up_in_the_end(
    ledger: Ledger, there: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    there.answers = [500, 302, 200, 503, 503, 503, 503, 200]
    notices = Notices(ledger, [hook(there)], "7-aa")
    for name in ("task:t1", "task:t2", "task:t3"):
        notices.note(tripped(name=name))
    there.wait(lambda got: len(got) == 8)
    assert notices.stop()
    names = [got.alert["data"]["name"] for got in there.got]
    assert names == ["task:t1"] * 3 + ["task:t2"] * 4 + ["task:t3"]
    assert len({got.alert["id"] for got in there.got}) == 3
    assert notices.events["alert", "delivered"] == 2
    assert notices.events["alert", "failed"] == 1
    assert "an alert was not delivered: 127.0.0.1 answered 503; it said: runaway: task" in caplog.text


def test_a_receiver_that_hangs_delays_neither_callers_nor_rows_nor_other_receivers(
    ledger: Ledger, there: Receiver
) -> None:
    with receiver() as slow:
        slow.gate.clear()
        notices = Notices(ledger, [hook(slow), hook(there)], "7-aa")
        begun = time.monotonic()
        for number in range(50):
            notices.note(tripped(name=f"task:{number}"))
        assert time.monotonic() - begun < 1
        there.wait(lambda got: len(got) == 50)
        while notices.events["row", "written"] < 50:
            assert time.monotonic() - begun < 15
            time.sleep(0.01)
        assert notices.stop(0.05) is False
        slow.gate.set()
        slow.wait(lambda got: bool(got))
        assert notices.stop()


def test_rows_wait_for_a_ledger_that_is_away_and_alerts_do_not(
    ledger: Ledger, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, back, add = threading.Semaphore(0), threading.Event(), ledger.trips.add

    def away(*given: Any) -> bool:
        tries.release()
        if not back.is_set():
            raise LedgerUnavailable("gone")
        return add(*given)

    monkeypatch.setattr(ledger.trips, "add", away)
    notices = Notices(ledger, [hook(there)], "7-aa")
    notices.note(tripped())
    notices.keep(letter())
    there.wait(lambda got: len(got) == 1)
    for _ in range(3):
        assert tries.acquire(timeout=10)
    assert ledger.trips.list() == []
    back.set()
    assert notices.stop()
    assert len(ledger.trips.list()) == 1
    assert ledger.dead_letters.list() == [letter()]


def test_what_the_ledger_never_took_is_said(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*given: Any) -> bool:
        raise LedgerUnavailable("gone")

    monkeypatch.setattr(ledger.trips, "add", away)
    notices = Notices(ledger, [], "7-aa")
    notices.note(tripped())
    assert notices.stop()
    assert "the ledger did not take a row: gone; it was 0" in caplog.text
    assert notices.events["row", "failed"] == 1


def test_notes_from_many_threads_are_all_there(ledger: Ledger, there: Receiver) -> None:
    notices = Notices(ledger, [hook(there)], "7-aa")

    def tell(who: int) -> None:
        for number in range(10):
            notices.note(tripped(name=f"task:{who}:{number}"))

    threads = [threading.Thread(target=tell, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notices.stop(20)
    assert len({got.alert["id"] for got in there.got}) == len(there.got) == 60
    assert len({row.name for row in ledger.trips.list(limit=100)}) == 60
    assert ledger.audit.verify()[::2] == (60, [])
    assert (notices.events["trip", "budget"], notices.dropped) == (60, 0)


# ---------------------------------------------------------------------- contexts


def test_a_context_that_was_not_believed_is_audited_once_for_its_bearer_and_reason(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    notices = Notices(ledger, [], "p1")
    for why, bearer in (("forged", "key k1"), ("forged", "key k1"), ("foreign", "key k1"), ("forged", "task t.x")):
        notices.note(ContextNote(why, bearer, T0, team="growth"))
    assert notices.stop()
    found = [
        (record.actor, record.action, record.subject, json.loads(record.details)) for record in ledger.audit.tail(9)
    ]
    told = {"org": "default", "team": "growth"}
    assert found == [
        ("process p1", "context.rejected", "key k1", told | {"why": "forged"}),
        ("process p1", "context.rejected", "key k1", told | {"why": "foreign"}),
        ("process p1", "context.rejected", "task t.x", told | {"why": "forged"}),
    ]
    assert (notices.events["context", "forged"], notices.events["context", "foreign"]) == (2, 1)
    assert "key k1 of team growth came with a context that was not believed: it is another team's" in caplog.text
