"""The command line as a whole: its commands, exit statuses, and what a failure looks like."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from llmguard.ledger.reports import DIMENSIONS
from tests.support.cli import SANDBOX, Cli

COMMANDS = {
    *("serve", "check-config", "migrate", "doctor", "report", "keys", "budgets", "objects", "config"),
    *("trips", "dlq", "audit", "alerts", "cache", "demo"),
}
READING = [
    *("report", "doctor", "check-config", "migrate", "config show", "config schema", "keys list", "budgets list"),
    *("trips list", "trips show", "dlq list", "audit verify", "audit tail", "audit export", "alerts key"),
    "cache stats",
]
PEPPER, SIGNING, CACHE = (word * 4 for word in ("0123456789abcdef", "fedcba9876543210", "02468ace13579bdf"))
SECRETS = f"secrets: {{pepper: {PEPPER}, signing: {SIGNING}, cache: {CACHE}}}\n"


def test_help_names_every_command(cli: Cli) -> None:
    listed = cli.ok("--help").partition("Commands:")[2].split("\n")
    assert {line.split()[0] for line in listed if line.strip()} == COMMANDS


def test_the_version_is_the_distribution_s(cli: Cli) -> None:
    assert cli.ok("--version") == version("llmguard-gateway") + "\n"


@pytest.mark.parametrize("command", READING)
def test_every_reading_command_knows_json(cli: Cli, command: str) -> None:
    assert "--json" in cli.ok(*command.split(), "--help")


def test_report_says_by_what_one_can_group(cli: Cli) -> None:
    words = " ".join(cli.ok("report", "--help").split())
    assert f"any of {', '.join(DIMENSIONS)}." in words


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "keys nonsense",
        "report --nonsense",
        "keys create",
        "keys rotate",
        "serve --port 70000",
        "report extra",
        "dlq requeue",
        "dlq requeue --app nowhere:app",
        "trips reset",
        "audit verify --expect 1",
    ],
)
def test_wrong_usage_is_exit_status_2(cli: Cli, arguments: str) -> None:
    assert "Error: " in cli.fails(2, *arguments.split())
    assert cli.files() == set()


@pytest.mark.parametrize(
    "command",
    [
        "keys list",
        "report",
        "budgets list",
        "migrate",
        "keys create --team t",
        "trips list",
        "dlq list",
        "audit verify",
    ],
)
@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ("sqlite:///text.db", "text.db: file is not a database; `llmguard doctor` looks at it"),
        ("sqlite:///no/such/place.db", "no/such/place.db"),
        ("sqlite:///text.db/x.db", "text.db/x.db"),
        ("postgresql://u:hunter2@127.0.0.1:1/d", "Connection refused"),
    ],
)
def test_a_ledger_that_cannot_be_had_is_one_sentence(cli: Cli, ledger: str, said: str, command: str) -> None:
    cli.configure(f"{SANDBOX}{SECRETS}ledger: {ledger}\n")
    (cli.home / "text.db").write_text("this is no database\n" * 100)
    error = cli.fails(1, *command.split())
    assert error.startswith("llmguard: ")
    assert error.count("\n") == 1
    assert said in error
    assert "hunter2" not in error


@pytest.mark.parametrize("arguments", [["--help"], ["keys", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom llmguard.cli import main\nsys.argv[1:] = sys.argv[1].split()\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'llmguard.config', 'sqlalchemy', 'uvicorn', 'rich'} & set(sys.modules)\nprint(heavy, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, " ".join(arguments)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("Usage: llmguard ")
    assert done.stderr == "set()\n"
