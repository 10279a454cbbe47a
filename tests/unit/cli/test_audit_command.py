"""`llmguard audit`: what was done is there, and tampering is named with exit status 1."""

from __future__ import annotations

import getpass
import json
import socket
import sqlite3

import pytest

from llmguard.ledger import Payload
from tests.support.cli import SANDBOX, Cli


@pytest.fixture(autouse=True)
def configured(cli: Cli) -> None:
    cli.configure(SANDBOX)


def tamper(statement: str) -> None:
    with sqlite3.connect("llmguard.db") as database:
        database.execute(statement)
    database.close()


def test_commands_that_change_keys_are_in_the_trail_with_who_ran_them(cli: Cli) -> None:
    key = cli.json("keys", "create", "--team", "search", "--budget", "$5/day")
    cli.ok("keys", "rotate", key["id"])
    cli.ok("keys", "revoke", key["id"])
    rows = cli.json("audit", "tail")
    me = f"{getpass.getuser()}@{socket.gethostname()}"
    assert [(row["seq"], row["actor"], row["action"], row["subject"]) for row in rows] == [
        (1, me, "key.create", key["id"]),
        (2, me, "key.rotate", key["id"]),
        (3, me, "key.revoke", key["id"]),
    ]
    assert rows[0]["details"] == {
        "org": "default",
        "team": "search",
        "env": "default",
        "feature": "default",
        "budget": "$5/day",
        "expires_at": None,
    }
    assert key["key"].rpartition("_")[2] not in cli.ok("audit", "export") + cli.ok("audit", "tail")
    assert cli.ok("audit", "tail", "-n", "1").splitlines()[1].split()[3:5] == ["key.revoke", key["id"]]


def test_a_whole_trail_verifies_and_says_what_to_note(cli: Cli) -> None:
    assert cli.ok("audit", "verify") == "0 records, all as they were written\n"
    for _ in range(3):
        cli.ok("keys", "create", "--team", "search")
    first, second = cli.ok("audit", "verify").splitlines()
    assert first == "3 records, all as they were written"
    position = second.removeprefix("note the last one elsewhere: ")
    last = cli.json("audit", "tail", "-n", "1")[0]
    assert position == f"3:{last['hash']}"
    assert cli.json("audit", "verify", "--expect", position) == {
        "records": 3,
        "last": {"seq": 3, "hash": last["hash"]},
        "flaws": [],
    }
    exported = [json.loads(line) for line in cli.ok("audit", "export").splitlines()]
    assert [record["seq"] for record in exported] == [1, 2, 3]
    assert exported[2]["hash"] == last["hash"]


@pytest.mark.parametrize(
    ("statement", "seq", "what"),
    [
        ("UPDATE llmguard_audit SET actor = 'nobody' WHERE seq = 2", 2, "this record was edited"),
        ("DELETE FROM llmguard_audit WHERE seq = 2", 2, "this record is missing from the chain"),
        ("DELETE FROM llmguard_audit WHERE seq = 3", 3, "this record is missing at the end"),
    ],
)
def test_tampering_is_named(cli: Cli, statement: str, seq: int, what: str) -> None:
    for _ in range(3):
        cli.ok("keys", "create", "--team", "search")
    tamper(statement)
    assert cli.fails(1, "audit", "verify") == f"llmguard: record {seq}: {what}\n"
    found = cli.run("audit", "verify", "--json")
    assert (found.exit_code, json.loads(found.stdout)["flaws"]) == (1, [{"seq": seq, "what": what}])


def test_a_record_that_was_expected(cli: Cli) -> None:
    said = cli.fails(1, "audit", "verify", "--expect", f"9:{'ab' * 32}")
    assert said == "llmguard: record 9: this record was expected and is missing\n"
    assert "--expect '9': write number:hash, as `audit verify` prints it" in cli.fails(
        2, "audit", "verify", "--expect", "9"
    )


def test_a_key_is_not_made_when_that_cannot_be_recorded(cli: Cli) -> None:
    cli.ok("keys", "create", "--team", "search")
    tamper("DROP TABLE llmguard_audit")
    assert "llmguard_audit" in cli.fails(1, "keys", "create", "--team", "ads")
    assert [row["team"] for row in cli.json("keys", "list")] == ["search"]


# ---------------------------------------------------------------------- archives


def test_an_archive_takes_the_place_of_old_records(cli: Cli) -> None:
    for _ in range(3):
        cli.ok("keys", "create", "--team", "search")
    archive = cli.home / "trail.jsonl"
    archive.write_text(cli.ok("audit", "export"))
    assert cli.ok("audit", "prune", str(archive)) == f"2 records were taken out; keep {archive}\n"
    assert [row["action"] for row in cli.json("audit", "tail")] == ["key.create", "audit.pruned"]
    assert cli.json("audit", "verify")["flaws"] == []
    assert cli.json("audit", "prune", str(archive)) == {"pruned": 1}


def test_export_until_a_moment(cli: Cli) -> None:
    cli.ok("keys", "create", "--team", "search")
    assert cli.ok("audit", "export", "--until", "2020-01-01") == ""
    assert len(cli.ok("audit", "export", "--until", "2120-01-01T12:00:00").splitlines()) == 1
    assert "does not match the formats" in cli.fails(2, "audit", "export", "--until", "soon")


@pytest.mark.parametrize("text", ["no json", '{"seq": 1}', "[1]"])
def test_what_is_no_archive_prunes_nothing(cli: Cli, text: str) -> None:
    cli.ok("keys", "create", "--team", "search")
    archive = cli.home / "trail.jsonl"
    archive.write_text(text)
    assert "is not what" in cli.fails(2, "audit", "prune", str(archive))
    assert len(cli.json("audit", "tail")) == 1


# ---------------------------------------------------------------------- payloads

CALL = "01a0c451-f2a0-7ccc-9e2f-eb89414c343c"


def test_a_kept_payload_is_shown_and_that_is_on_record(cli: Cli) -> None:
    cli.ledger().payloads.add(
        Payload(CALL, 1_790_000_100_000, "default", "search", '{"q": 1}', "hello", 8, 9_000, True)
    )
    assert cli.ok("audit", "payload", CALL).splitlines() == [
        f"{CALL}  2026-09-21T14:15:00Z  default/search  redacted",
        "--- prompt, 8 bytes",
        '{"q": 1}',
        "--- reply, 9000 bytes",
        "hello",
    ]
    assert cli.json("audit", "payload", CALL)["reply"] == "hello"
    assert [(row["action"], row["subject"]) for row in cli.json("audit", "tail")] == [("payload.read", CALL)] * 2


def test_a_payload_that_is_not_kept_is_said(cli: Cli) -> None:
    assert "nothing is kept of call" in cli.fails(1, "audit", "payload", CALL)
    assert cli.json("audit", "tail") == []
