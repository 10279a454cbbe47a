"""`llmguard doctor`: finds what is broken, says what to do, and makes nothing."""

from __future__ import annotations

import json
import socket
import sqlite3
from typing import Any

from llmguard.ledger import migrate
from tests.support.cli import SANDBOX, Cli


def findings(cli: Cli, *, code: int = 0) -> dict[str, tuple[str, str]]:
    result = cli.run("doctor", "--json")
    assert result.exit_code == code, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return {one["subject"]: (one["state"], f"{one['detail']} -> {one['advice']}") for one in found}


def test_a_fresh_directory(cli: Cli) -> None:
    cli.configure(SANDBOX)
    found = findings(cli)
    assert list(found) == ["ledger", "secrets", "spool", "store", "clock", "prices", "provider sandbox", "alerts"]
    assert found["ledger"][0] == "warning"
    assert {state for subject, (state, _) in found.items() if subject != "ledger"} == {"ok"}
    assert cli.files() == {"llmguard.yaml"}


def test_a_ledger_in_use(cli: Cli) -> None:
    cli.configure(SANDBOX)
    cli.ledger()
    assert findings(cli)["ledger"] == ("ok", "reachable, schema current, rollups equal the entries -> ")


def test_people_are_told_what_to_do(cli: Cli) -> None:
    cli.configure(SANDBOX)
    assert cli.ok("doctor").splitlines()[:2] == [
        "warning  ledger: llmguard.db does not exist yet",
        "         -> `llmguard serve` makes it",
    ]


def test_a_ledger_that_is_no_database(cli: Cli) -> None:
    cli.configure(SANDBOX)
    (cli.home / "llmguard.db").write_text("text " * 1_000)
    state, said = findings(cli, code=1)["ledger"]
    assert state == "failed"
    assert "file is not a database -> start the database" in said


def test_a_schema_that_is_behind(cli: Cli) -> None:
    cli.configure(SANDBOX)
    sqlite3.connect("llmguard.db").close()
    assert findings(cli, code=1)["ledger"] == (
        "failed",
        f"the schema is at nothing, and {migrate.head()} is needed -> run `llmguard migrate`",
    )


def test_what_the_fleet_may_spend_without_its_store(cli: Cli) -> None:
    budget = "{name: team, scope: {team: '*'}, limit: $5, window: day, when_store_down: allow}"
    cli.configure(f"{SANDBOX}\nstore: redis://127.0.0.1:1/0\nserver: {{workers: 4}}\nbudgets: [{budget}]\n")
    result = cli.run("doctor", "--json")
    said = [(one["state"], one["detail"]) for one in json.loads(result.stdout) if one["subject"] == "store_down"]
    fleet = (
        "while the store is away each process may spend $0.5: $2 for the 4 of `llmguard serve` on this "
        "configuration, and $0.5 for each worker process and program that calls from within"
    )
    warned = "while the store is away, calls that no rule but team counts may cost anything"
    assert said == [("warning", warned), ("ok", fleet)]


def test_rollups_that_differ(cli: Cli) -> None:
    cli.configure(SANDBOX)
    cli.ledger()
    with sqlite3.connect("llmguard.db") as database:
        database.execute("INSERT INTO llmguard_rollups VALUES (0,'o','t','e','f','k','p','m',1,1,1,1,1,1,1,1)")
    assert findings(cli, code=1)["ledger"] == ("failed", "1 rollups differ from the entries -> report this as a bug")


def test_secrets_that_are_gone_or_open(cli: Cli) -> None:
    cli.configure(SANDBOX)
    cli.ledger()
    kept = cli.home / "llmguard.db.secrets"
    kept.chmod(0o640)
    assert findings(cli, code=1)["secrets"] == (
        "failed",
        "others may read llmguard.db.secrets (mode 0640) -> chmod 600 llmguard.db.secrets",
    )
    kept.unlink()
    state, said = findings(cli, code=1)["secrets"]
    assert (state, said.partition(",")[0]) == ("failed", "llmguard.db.secrets is gone")
    assert not kept.exists()


def test_a_spool_that_cannot_be_made(cli: Cli) -> None:
    cli.configure(SANDBOX + "spool: {path: llmguard.yaml/spool}\n")
    state, said = findings(cli, code=1)["spool"]
    assert (state, "llmguard.yaml is no directory" in said) == ("failed", True)


def test_a_spool_without_room(cli: Cli) -> None:
    cli.configure(SANDBOX + "spool: {quota: 1000GiB}\n")
    state, said = findings(cli)["spool"]
    assert (state, "one process may need 1024000 MiB" in said) == ("warning", True)


def test_records_that_could_not_become_rows(cli: Cli) -> None:
    cli.configure(SANDBOX)
    (cli.home / "spool").mkdir()
    (cli.home / "spool" / "rejected.jsonl").write_text("{}\n{}\n")
    state, said = findings(cli, code=1)["spool"]
    assert (state, said.partition(" could")[0]) == ("failed", "2 records in spool/rejected.jsonl")


def test_a_store_that_is_away(cli: Cli) -> None:
    cli.configure(SANDBOX + "store: redis://:hunter2@127.0.0.1:1/0\n")
    state, said = findings(cli, code=1)["store"]
    assert state == "failed"
    assert "quota store 127.0.0.1:1 did not answer" in said
    assert "hunter2" not in said


def test_models_without_a_price_and_providers_that_do_not_answer(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as open_port, socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))
        ports = open_port.getsockname()[1], closed_port.getsockname()[1]
        cli.configure(
            "providers:\n"
            f"  here: {{dialect: openai, base_url: 'http://127.0.0.1:{ports[0]}/v1', internal: true, default: true}}\n"
            f"  gone: {{dialect: openai, base_url: 'http://127.0.0.1:{ports[1]}/v1', internal: true}}\n"
            "models: {mine: here/never-heard-of}\n"
        )
        found = findings(cli)
    assert found["provider here"] == ("ok", f"127.0.0.1:{ports[0]} takes connections -> ")
    assert found["provider gone"][0] == "warning"
    assert "Connection refused" in found["provider gone"][1]
    detail = "no price is known for mine (here/never-heard-of): the provider's dearest one is charged"
    advice = 'add prices: {"here/never-heard-of": {input: $1/M, output: $4/M}}'
    assert found["prices"] == ("warning", f"{detail} -> {advice}")
