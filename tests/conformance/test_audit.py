"""The audit trail on each database: no record is altered, moved or removed unseen, and no change goes without one."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger, Payload
from llmguard.ledger.audit import MENDED, PRUNED, Position
from llmguard.ledger.configurations import CHANGED
from llmguard.ledger.models import audit, audit_head, keys
from llmguard.ledger.objects import Owner
from tests.support.ledger import PEPPER, T0, empty, letter, trip

PAYLOAD = Payload(
    "01a0c451-f2a0-7ccc-9e2f-eb89414c343c", T0 - 10**10, "default", "search", '{"q": "hü"}', "hello", 11, 5, True
)


def written(ledger: Ledger, number: int = 5) -> None:
    """A trail of so many records."""
    for index in range(number):
        ledger.audit.record("alice@host", "key.create", f"k{index}", {"team": "sëarch", "n": index})


def change(ledger: Ledger, statement: str, **values: object) -> None:
    """What somebody does who can write to the database and knows no secret."""
    with ledger.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def flaws(ledger: Ledger, expected: Position | None = None) -> list[tuple[int, str]]:
    return [(flaw.seq, flaw.what) for flaw in ledger.audit.verify(expected).flaws]


# ---------------------------------------------------------------------- the chain


def test_a_trail_is_a_chain_with_a_head(ledger: Ledger) -> None:
    assert ledger.audit.verify() == (0, (0, ""), [])
    written(ledger, 3)
    first, second, third = ledger.audit.export()
    assert [record.seq for record in (first, second, third)] == [1, 2, 3]
    assert (first.prev, second.prev, third.prev) == ("", first.hash, second.hash)
    assert (first.actor, first.action, first.subject) == ("alice@host", "key.create", "k0")
    assert json.loads(first.details) == {"n": 0, "team": "sëarch"}
    assert ledger.audit.tail(2) == [second, third]
    assert ledger.audit.verify() == (3, (3, third.hash), [])
    assert ledger.audit.verify(Position(2, second.hash)).flaws == []


def test_the_hash_is_the_documented_one(ledger: Ledger) -> None:
    import hashlib
    import hmac

    written(ledger, 2)
    record = ledger.audit.tail(1)[0]
    key = hmac.new(PEPPER, b"llmguard audit trail", hashlib.sha256).digest()
    text = json.dumps(["record", 1, *record[:-1]], separators=(",", ":"))
    assert record.hash == hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("column", ["at", "actor", "action", "subject", "details", "prev"])
def test_an_edited_record_is_named(ledger: Ledger, column: str) -> None:
    written(ledger)
    value = "at + 1" if column == "at" else "'x'"
    change(ledger, f"UPDATE llmguard_audit SET {column} = {value} WHERE seq = 3")
    assert flaws(ledger) == [(3, "this record was edited")]


def test_a_record_edited_with_its_hash_is_named(ledger: Ledger) -> None:
    """Who does not know the pepper can only write some other hash."""
    written(ledger)
    change(ledger, "UPDATE llmguard_audit SET actor = 'mallory', hash = :hash WHERE seq = 3", hash="ab" * 32)
    change(ledger, "UPDATE llmguard_audit SET prev = :hash WHERE seq = 4", hash="ab" * 32)
    assert flaws(ledger) == [(3, "this record was edited"), (4, "this record was edited")]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("seq = 3", [(3, "this record is missing from the chain")]),
        ("seq = 1", [(1, "this record is missing from the chain")]),
        ("seq IN (2, 3)", [(2, "records 2 to 3 are missing from the chain")]),
        ("seq = 5", [(5, "this record is missing at the end")]),
        ("seq > 3", [(4, "records 4 to 5 are missing at the end")]),
        ("seq > 0", [(1, "records 1 to 5 are missing at the end")]),
    ],
)
def test_a_removed_record_is_named(ledger: Ledger, gone: str, said: list[tuple[int, str]]) -> None:
    written(ledger)
    change(ledger, f"DELETE FROM llmguard_audit WHERE {gone}")
    assert flaws(ledger) == said


def test_swapped_records_are_named(ledger: Ledger) -> None:
    written(ledger)
    for old, new in ((2, 100), (4, 2), (100, 4)):
        change(ledger, f"UPDATE llmguard_audit SET seq = {new} WHERE seq = {old}")
    assert flaws(ledger) == [
        (2, "this is record 4, moved to another place"),
        (4, "this is record 2, moved to another place"),
    ]


def test_renumbering_hides_no_removal(ledger: Ledger) -> None:
    written(ledger)
    change(ledger, "DELETE FROM llmguard_audit WHERE seq = 3")
    change(ledger, "UPDATE llmguard_audit SET seq = 3 WHERE seq = 4")
    change(ledger, "UPDATE llmguard_audit SET seq = 4 WHERE seq = 5")
    found = flaws(ledger)
    assert {seq for seq, _ in found} == {3, 4, 5}
    assert (5, "this record is missing at the end") in found


@pytest.mark.parametrize("head", ["deleted", "rewritten"])
def test_the_end_cannot_be_cut_off_by_changing_the_head_too(ledger: Ledger, head: str) -> None:
    written(ledger)
    fourth = ledger.audit.tail(2)[0]
    change(ledger, "DELETE FROM llmguard_audit WHERE seq = 5")
    if head == "deleted":
        change(ledger, "DELETE FROM llmguard_audit_head")
    else:
        change(ledger, "UPDATE llmguard_audit_head SET seq = 4, hash = :hash", hash=fourth.hash)
    said = "the note of the last record was removed or changed: records may be missing after it"
    assert flaws(ledger) == [(4, said)]
    ledger.audit.record("bob@host", "key.revoke", "k1")
    mended, last = ledger.audit.tail(2)
    assert (mended.action, last.action) == (MENDED, "key.revoke")
    ((seq, what),) = flaws(ledger)
    assert seq == mended.seq
    assert what.startswith("this record notes that the trail had been changed before it")


def test_a_record_appended_after_a_cut_does_not_cover_it_up(ledger: Ledger) -> None:
    written(ledger)
    change(ledger, "DELETE FROM llmguard_audit WHERE seq > 3")
    ledger.audit.record("bob@host", "key.revoke", "k1")
    assert [record.seq for record in ledger.audit.export()] == [1, 2, 3, 6, 7]
    assert [seq for seq, _ in flaws(ledger)] == [4, 6]


def test_a_whole_database_put_back_is_found_by_what_was_noted_elsewhere(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    written(ledger, 4)
    with ledger.engine.begin() as connection:
        head = connection.execute(sa.select(audit_head)).one()._asdict()
    with caplog.at_level(logging.INFO, "llmguard.audit"):
        fifth = ledger.audit.record("alice@host", "key.create", "k4")
    assert f"audit record 5, hash {fifth.hash}" in caplog.text
    with ledger.engine.begin() as connection:
        connection.execute(sa.delete(audit).where(audit.c.seq == 5))
        connection.execute(sa.update(audit_head).values(head))
    assert flaws(ledger) == []
    assert flaws(ledger, Position(5, fifth.hash)) == [(5, "this record was expected and is missing")]
    ledger.audit.record("mallory@host", "key.create", "k9")
    assert flaws(ledger, Position(5, fifth.hash)) == [(5, "this record is another one than was expected")]


def test_a_record_of_another_state_of_the_database_does_not_fit_in(ledger: Ledger) -> None:
    """Both versions of record 3 were really written, one of them before the database was put back."""
    written(ledger, 2)
    with ledger.engine.begin() as connection:
        head = connection.execute(sa.select(audit_head)).one()._asdict()
    other = ledger.audit.record("mallory@host", "key.create", "k9")
    with ledger.engine.begin() as connection:
        connection.execute(sa.delete(audit).where(audit.c.seq == 3))
        connection.execute(sa.update(audit_head).values(head))
    written(ledger, 2)
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(audit).where(audit.c.seq == 3).values(other._asdict()))
    said = "this record does not follow the one before it: one of them is of another trail"
    assert flaws(ledger) == [(4, said)]


def test_another_pepper_verifies_nothing(ledger: Ledger) -> None:
    written(ledger, 2)
    other = Ledger(ledger.url, pepper=PEPPER + b"!")
    assert [flaw.seq for flaw in other.audit.verify().flaws] == [1, 2, 2]
    other.close()


def test_random_tampering_is_found(ledger: Ledger, rng: random.Random) -> None:
    for _ in range(15):
        empty(ledger)
        number = rng.randint(2, 8)
        written(ledger, number)
        at = rng.randint(1, number)
        column = rng.choice(["actor", "subject", "details", "hash", "prev"])
        with ledger.engine.begin() as connection:
            if rng.random() < 0.5:
                connection.execute(sa.delete(audit).where(audit.c.seq == at))
            else:
                row = connection.execute(sa.select(audit.c[column]).where(audit.c.seq == at)).scalar_one()
                place = rng.randrange(len(row) + 1)
                connection.execute(
                    sa.update(audit).where(audit.c.seq == at).values({column: row[:place] + "0" + row[place:]})
                )
        assert at in [seq for seq, _ in flaws(ledger)], (number, at, column)


# ---------------------------------------------------------------------- many writers


def test_threads_write_one_chain(ledger: Ledger) -> None:
    threads = [threading.Thread(target=written, args=(ledger, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.audit.verify()[::2] == (40, [])
    assert [record.seq for record in ledger.audit.export()] == list(range(1, 41))


def test_processes_write_one_chain(ledger: Ledger) -> None:
    code = (
        "import sys; from llmguard.ledger import Ledger; l = Ledger(sys.argv[1], pepper=sys.argv[2].encode())\n"
        "for i in range(5): l.keys.create('search', 'prod', 'chat', actor=f'process {i}')"
    )
    url = ledger.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", code, url, PEPPER.decode()]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0], ended
    verdict = ledger.audit.verify()
    assert (verdict.records, verdict.flaws) == (15, [])
    assert len(ledger.keys.list()) == 15


def test_a_record_goes_with_its_transaction(ledger: Ledger) -> None:
    written(ledger, 1)
    with ledger.engine.connect() as connection:
        transaction = connection.begin()
        ledger.audit.append(connection, "alice@host", "key.create", "k1")
        transaction.rollback()
    written(ledger, 1)
    assert ledger.audit.verify()[::2] == (2, [])


# ---------------------------------------------------------------------- what is written


def test_every_change_of_a_key_is_a_record_without_a_secret(ledger: Ledger) -> None:
    key, first = ledger.keys.create("search", "prod", "chat", budget="$5/day", actor="alice@host")
    _, second = ledger.keys.rotate(key.id, actor="bob@host")
    ledger.keys.revoke(key.id, actor="carol@host")
    records = list(ledger.audit.export())
    assert [(record.actor, record.action, record.subject) for record in records] == [
        ("alice@host", "key.create", key.id),
        ("bob@host", "key.rotate", key.id),
        ("carol@host", "key.revoke", key.id),
    ]
    assert json.loads(records[0].details)["budget"] == "$5/day"
    everything = repr(records)
    assert first.rpartition("_")[2] not in everything
    assert second.rpartition("_")[2] not in everything


def _break_audit(ledger: Ledger) -> None:
    change(ledger, "ALTER TABLE llmguard_audit RENAME TO llmguard_audit_away")


def _mend_audit(ledger: Ledger) -> None:
    change(ledger, "ALTER TABLE llmguard_audit_away RENAME TO llmguard_audit")


@pytest.mark.parametrize(
    "action", ["create", "rotate", "revoke", "reset", "requeue", "claim", "config", "payload", "prune"]
)
def test_a_change_whose_record_cannot_be_written_does_not_happen(ledger: Ledger, action: str) -> None:
    key, text = ledger.keys.create("search", "prod", "chat")
    ledger.trips.add(trip(), "process 1")
    ledger.dead_letters.add(letter())
    ledger.payloads.add(PAYLOAD)
    archive = list(ledger.audit.export())
    with ledger.engine.connect() as connection:
        before = [tuple(row) for row in connection.execute(sa.select(keys))]
    attempts: dict[str, Callable[[], object]] = {
        "create": lambda: ledger.keys.create("ads", "prod", "chat"),
        "rotate": lambda: ledger.keys.rotate(key.id),
        "revoke": lambda: ledger.keys.revoke(key.id),
        "reset": lambda: ledger.trips.reset("task:t1", "alice@host"),
        "requeue": lambda: ledger.dead_letters.claim(lambda: "new", "alice@host"),
        "claim": lambda: ledger.objects.add("file", "openai", "f9", Owner("default", "ads", 1, None)),
        "config": lambda: ledger.configurations.begin("/etc/llmguard.yaml", {"budgets.b": {"limit": "$5"}}),
        "payload": lambda: ledger.payloads.read(PAYLOAD.event_id, "alice@host"),
        "prune": lambda: ledger.audit.prune(archive, "alice@host"),
    }
    _break_audit(ledger)
    try:
        with pytest.raises(LedgerUnavailable):
            attempts[action]()
    finally:
        _mend_audit(ledger)
    with ledger.engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(sa.select(keys))] == before
    assert not isinstance(ledger.keys.lookup(text), str)
    assert ledger.trips.list(active=True) == [trip()]
    assert ledger.dead_letters.list() == [letter()]
    assert ledger.objects.owner("file", "openai", "f9") is None
    assert list(ledger.audit.export()) == archive
    assert ledger.audit.verify().flaws == []


# ---------------------------------------------------------------------- configurations

RULES = {"budgets.search": {"limit": "$50", "window": "hour"}, "prices.openai/*": {"input": "$1/M"}}


def changed(ledger: Ledger) -> list[tuple[str, list[str]]]:
    found = [record for record in ledger.audit.export() if record.action == CHANGED]
    return [(record.subject, json.loads(record.details)["changes"]) for record in found]


def test_changed_rules_are_recorded_once_and_readably(ledger: Ledger) -> None:
    ledger.configurations.begin("a.yaml", RULES)
    assert ledger.configurations.begin("a.yaml", RULES) == []
    later = {"budgets.search": {"limit": "$80", "window": "hour"}, "limits.rpm": {"limit": "600/minute"}}
    said = [
        "budgets.search: limit $50 -> $80",
        "limits.rpm: new, limit 600/minute",
        "prices.openai/*: removed, it had input $1/M",
    ]
    assert ledger.configurations.begin("a.yaml", later) == said
    ledger.configurations.begin("a.yaml", RULES)
    assert [subject for subject, _ in changed(ledger)] == ["a.yaml"] * 3
    assert [changes for _, changes in changed(ledger)][:2] == [["the first of this source"], said]
    assert ledger.audit.verify().flaws == []


def test_each_source_has_rules_of_its_own(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.configurations.begin("a.yaml", RULES)
        ledger.configurations.begin("b.yaml", {})
    assert [subject for subject, _ in changed(ledger)] == ["a.yaml", "b.yaml"]


def test_of_workers_that_begin_at_once_one_records(ledger: Ledger) -> None:
    threads = [threading.Thread(target=ledger.configurations.begin, args=("a.yaml", RULES)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(changed(ledger)) == 1


# ---------------------------------------------------------------------- archives


def test_what_is_in_an_archive_can_be_taken_out(ledger: Ledger) -> None:
    written(ledger)
    archive = list(ledger.audit.export())[:3]
    assert ledger.audit.prune(archive, "alice@host") == 3
    left = list(ledger.audit.export())
    assert [(record.seq, record.action) for record in left] == [(4, "key.create"), (5, "key.create"), (6, PRUNED)]
    assert json.loads(left[-1].details) == {"through": [3, archive[-1].hash]}
    assert flaws(ledger) == []
    written(ledger, 2)
    assert ledger.audit.prune(list(ledger.audit.export())[:-1], "alice@host") == 4
    assert flaws(ledger) == []


@pytest.mark.parametrize("how", ["edited", "missing", "of another ledger"])
def test_what_an_archive_does_not_have_stays(ledger: Ledger, how: str) -> None:
    written(ledger)
    archive = list(ledger.audit.export())
    if how == "missing":
        del archive[1]
    else:
        what = {"actor": "mallory"} if how == "edited" else {"hash": "0" * 64}
        archive[1] = archive[1]._replace(**what)
    assert ledger.audit.prune(archive, "alice@host") == 1
    assert [record.seq for record in ledger.audit.export()] == [2, 3, 4, 5, 6]
    assert flaws(ledger) == []


def test_a_whole_archive_leaves_the_last_record(ledger: Ledger) -> None:
    written(ledger)
    assert ledger.audit.prune(list(ledger.audit.export()), "alice@host") == 4
    assert [record.seq for record in ledger.audit.export()] == [5, 6]
    assert ledger.audit.prune([], "alice@host") == 0


def test_more_than_was_archived_cannot_be_removed_unseen(ledger: Ledger) -> None:
    written(ledger)
    ledger.audit.prune(list(ledger.audit.export())[:2], "alice@host")
    change(ledger, "DELETE FROM llmguard_audit WHERE seq = 3")
    assert flaws(ledger) == [(1, "records 1 to 3 are missing from the chain")]


def test_records_before_a_moment(ledger: Ledger) -> None:
    written(ledger, 3)
    records = list(ledger.audit.export())
    assert list(ledger.audit.export(records[0].at)) == []
    assert list(ledger.audit.export(records[-1].at + 1)) == records


# ---------------------------------------------------------------------- payloads


def test_a_payload_is_read_as_it_was_kept_and_that_is_recorded(ledger: Ledger) -> None:
    ledger.payloads.add(PAYLOAD)
    ledger.payloads.add(PAYLOAD)
    assert ledger.payloads.read(PAYLOAD.event_id, "alice@host") == PAYLOAD
    assert ledger.payloads.read("no id", "alice@host") is None
    (record,) = ledger.audit.export()
    assert (record.actor, record.action, record.subject) == ("alice@host", "payload.read", PAYLOAD.event_id)
    assert ledger.payloads.forget(1_000) == 1
    assert ledger.payloads.forget(1_000) == 0
