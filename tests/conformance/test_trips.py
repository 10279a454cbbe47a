"""Trips and dead letters on each database: one row each, and one record of everything that is done about them."""

from __future__ import annotations

import json
import random
import threading

import pytest

from llmguard.ledger import Ledger
from llmguard.ledger.dead_letters import CLAIM_MS
from tests.support.ledger import T0, letter, new_id, trip

# ---------------------------------------------------------------------- trips


def test_a_trip_is_one_row_and_one_record(ledger: Ledger) -> None:
    assert ledger.trips.add(trip(), "process 1-aa") is True
    assert ledger.trips.add(trip(), "process 2-bb") is False
    assert ledger.trips.list() == [trip()]
    assert ledger.trips.get(trip().id) == ledger.trips.get("task:t1") == [trip()]
    assert ledger.trips.get("nothing") == []
    (record,) = ledger.audit.export()
    assert (record.actor, record.action, record.subject) == ("process 1-aa", "trip", "task:t1")
    assert json.loads(record.details)["cost_nano"] == 1_200_000_000


def test_a_reset_ends_every_trip_of_its_name(
    ledger: Ledger, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.trips, "_clock", lambda: T0 + 9)
    first, second, other = (trip(id=new_id(rng), at=T0 + n) for n in range(3))
    other = trip(id=other.id, at=other.at, name="task:t2")
    for row in (first, second, other):
        ledger.trips.add(row, "process 1")
    assert ledger.trips.reset("task:t1", "alice@host") == 2
    assert ledger.trips.list(active=True) == [other]
    assert [(row.reset_at, row.reset_by) for row in ledger.trips.get("task:t1")] == [(T0 + 9, "alice@host")] * 2
    assert ledger.trips.reset("task:t1", "bob@host") == 0
    assert [(r.actor, r.action, r.details) for r in ledger.audit.tail(2)] == [
        ("alice@host", "trip.reset", '{"trips":2}'),
        ("bob@host", "trip.reset", '{"trips":0}'),
    ]


def test_text_that_no_database_takes_is_mended(ledger: Ledger) -> None:
    ledger.trips.add(trip(task="a\x00b\ud800", name="task:\x00"), "process \x00")
    assert ledger.trips.list()[0].task == "a\ufffdb?"
    assert ledger.audit.verify().flaws == []


# ---------------------------------------------------------------------- dead letters


def test_a_letter_is_kept_once_byte_for_byte(ledger: Ledger) -> None:
    assert ledger.dead_letters.add(letter()) is True
    assert ledger.dead_letters.add(letter(body=b"other")) is False
    assert ledger.dead_letters.list() == [letter()]
    assert (ledger.dead_letters.waiting(), letter().status) == (1, "kept")


def test_a_letter_is_claimed_once_and_again_under_the_same_id_when_nothing_came_of_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [T0]
    monkeypatch.setattr(ledger.dead_letters, "_clock", lambda: now[0])
    ledger.dead_letters.add(letter())
    (claimed,) = ledger.dead_letters.claim(lambda: "run-1", "alice@host", limit=9)
    assert (claimed.requeued_as, claimed.status, claimed.body) == ("run-1", "claimed", letter().body)
    assert ledger.dead_letters.claim(lambda: "run-2", "bob@host") == []
    now[0] += CLAIM_MS + 1
    (again,) = ledger.dead_letters.claim(lambda: "run-3", "bob@host")
    assert (again.requeued_as, again.requeued_by) == ("run-1", "bob@host")
    ledger.dead_letters.published(again)
    now[0] += CLAIM_MS + 1
    assert ledger.dead_letters.claim(lambda: "run-4", "carol@host") == []
    assert ledger.dead_letters.list() == []
    (kept,) = ledger.dead_letters.list(waiting=False)
    assert (kept.status, ledger.dead_letters.waiting()) == ("requeued", 0)
    assert [(r.actor, json.loads(r.details)["as"]) for r in ledger.audit.export()] == [
        ("alice@host", "run-1"),
        ("bob@host", "run-1"),
    ]


def test_letters_are_shared_between_those_who_claim_at_once(ledger: Ledger, rng: random.Random) -> None:
    ids = [new_id(rng) for _ in range(20)]
    for index, one in enumerate(ids):
        ledger.dead_letters.add(letter(id=one, at=T0 + index))
    assert [c.id for c in ledger.dead_letters.claim(lambda: "x", "alice@host", limit=2)] == ids[:2]
    assert [c.id for c in ledger.dead_letters.claim(lambda: "x", "alice@host", ids=[ids[9]], limit=5)] == [ids[9]]
    claimed: list[str] = []

    def claim() -> None:
        for _ in range(10):
            claimed.extend(found.id for found in ledger.dead_letters.claim(lambda: "y", "bob@host", limit=2))

    threads = [threading.Thread(target=claim) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(set(ids) - {*ids[:2], ids[9]})
    assert ledger.audit.verify().flaws == []
