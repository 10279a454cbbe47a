"""`llmguard keys`: what is printed is what the ledger holds, and a secret is printed once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from llmguard.core.call import Principal
from llmguard.ledger import Verified
from tests.support.cli import SANDBOX, Cli


@pytest.fixture(autouse=True)
def configured(cli: Cli) -> None:
    cli.configure(SANDBOX)


def create(cli: Cli, *more: str) -> dict[str, str]:
    made = cli.json("keys", "create", "--team", "search", "--env", "prod", "--feature", "chat", *more)
    assert isinstance(made, dict)
    return made


def test_a_key_is_made_with_what_it_was_told(cli: Cli) -> None:
    made = create(cli, "--expires", "30d", "--budget", "$5/day")
    key, created = made.pop("key"), datetime.fromisoformat(made["created_at"])
    assert re.fullmatch(rf"lg_prod_{made['id']}_[0-9A-Za-z]{{49}}", key)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert timedelta(days=30) - timedelta(minutes=1) < datetime.fromisoformat(made["expires_at"]) - created
    assert {name: made[name] for name in made if name not in ("id", "created_at", "expires_at")} == {
        "org": "default",
        "team": "search",
        "env": "prod",
        "feature": "chat",
        "budget": "$5/day",
        "revoked_at": None,
        "previous_until": None,
        "status": "active",
    }
    verified = cli.ledger().keys.lookup(key)
    assert isinstance(verified, Verified)
    assert verified.principal == Principal(made["id"], made["id"], "search", "prod", "chat", "default", "$5/day")


def test_without_json_the_key_stands_alone_on_standard_output(cli: Cli) -> None:
    result = cli.run("keys", "create", "--team", "search")
    key = result.stdout.removesuffix("\n")
    verified = cli.ledger().keys.lookup(key)
    assert isinstance(verified, Verified)
    assert result.stderr == (
        f"llmguard: this is key {verified.principal.key_id} for team search, env default, feature default; "
        "it is shown only now\n"
    )


def test_list_shows_no_secret_and_the_newest_first(cli: Cli) -> None:
    first = create(cli)
    second = create(cli, "--feature", "*")
    rows = cli.json("keys", "list")
    assert [row["id"] for row in rows] == [second["id"], first["id"]]
    assert rows == [{name: made[name] for name in made if name != "key"} for made in (second, first)]
    table = cli.ok("keys", "list")
    assert table.splitlines()[1].split() == [
        second["id"],
        "search",
        "prod",
        "*",
        "-",
        second["created_at"],
        "-",
        "active",
    ]
    assert first["key"].rpartition("_")[2] not in table


def test_rotate_lets_both_secrets_work_and_revoke_neither(cli: Cli) -> None:
    old = create(cli)
    new = cli.json("keys", "rotate", old["id"], "--grace", "1h")
    grace = datetime.fromisoformat(new["previous_until"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < grace <= timedelta(hours=1)
    keys = cli.ledger().keys
    assert isinstance(keys.lookup(old["key"]), Verified)
    assert isinstance(keys.lookup(new["key"]), Verified)
    assert cli.json("keys", "revoke", old["id"])["status"] == "revoked"
    assert (keys.lookup(old["key"]), keys.lookup(new["key"])) == ("revoked", "revoked")
    assert "there is no active key" in cli.fails(1, "keys", "rotate", old["id"])


def test_a_key_may_leave_team_and_environment_to_signed_contexts(cli: Cli) -> None:
    made = cli.json("keys", "create", "--team", "*", "--env", "*", "--feature", "*")
    verified = cli.ledger().keys.lookup(made["key"])
    assert isinstance(verified, Verified)
    assert (verified.principal.team, verified.principal.env, verified.principal.feature) == ("*", "*", "*")


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_a_key_that_is_not_there(cli: Cli, command: str) -> None:
    assert "key 'nobody'; `llmguard keys list` shows" in cli.fails(1, "keys", command, "nobody")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--team", "**", "--team '**': write letters, digits"),
        ("--team", "a b", "--team 'a b': write letters, digits"),
        ("--env", "*x", "--env '*x': write letters"),
        ("--feature", "x" * 129, "at most 128"),
        ("--budget", "5", "--budget '5' is not an amount of money; write dollars"),
        ("--budget", "$5/fortnight", "--budget '$5/fortnight' is not an amount"),
        ("--budget", "$0/day", "a budget of nothing"),
        ("--expires", "soon", "--expires 'soon' is not a length of time; write a number and a unit"),
    ],
)
def test_wrong_values_make_no_key(cli: Cli, option: str, value: str, said: str) -> None:
    arguments = {"--team": "search", option: value}
    words = [word for pair in arguments.items() for word in pair]
    assert said in cli.fails(2, "keys", "create", *words)
    assert cli.files() == {"llmguard.yaml"}
