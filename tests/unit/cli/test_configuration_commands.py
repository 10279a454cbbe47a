"""`llmguard check-config` and `llmguard config`: mistakes named, nothing begun, secrets masked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmguard.config import json_schema, load
from tests.support.cli import SANDBOX, Cli

MISTAKES = {
    "an unknown key": ("server:\n  prot: 8080\n", "2: server has no key 'prot'; write port"),
    "a wrong value": ("spool:\n  quota: much\n", "2: spool.quota is 'much', not a size; write a number and a unit"),
    "a contradiction": ("server: {workers: 4}\n", "1: server.workers is 4, but each worker"),
    "a later version's": ("auth: {}\n", "1: auth is not in this version; remove the section"),
    "no YAML": ("server: [\n", "2: this is not YAML"),
    "a duplicate": ("clamp: true\nclamp: true\n", "2: clamp stands here a second time"),
}
EVERYTHING = """
server: {port: 18080, max_body: 1MiB, drain: 0s}
ledger: sqlite:///here.db
spool: {path: ./records, quota: 64MiB}
providers:
  openai: {dialect: openai, base_url: https://api.openai.com/v1, keys: [sk-hidden], passthrough: $0.01}
  local: {dialect: openai, base_url: http://127.0.0.1:9000/v1, internal: true, default: true, timeouts: {total: 90s}}
models: {smart: openai/gpt-4o}
prices: {local/*: {input: $1/M, output: $0.000000001/M, request: $0.000000001, context: 128000}}
budgets:
  - {name: a, scope: {team: search, env: prod}, limit: $50.25, window: hour, timezone: Europe/Berlin, overshoot: 0}
  - {name: b, scope: {team: "*"}, limit: 2M tokens, window: day, overshoot: 33.3333%, alert_at: [50%, 99.5%]}
limits:
  - {name: c, scope: {key: "*"}, limit: 600/minute}
  - {name: d, scope: {team: "*"}, limit: 50 concurrent}
  - {name: e, scope: {}, limit: 100k tokens/2 hours}
unknown_model: refuse
clamp: false
streams: {on_disconnect: drain}
gateway: https://llm.corp.example
runaway: {mode: enforce, identical_prompts: 5/90s, tree_budget: $0.50}
"""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_config_names_the_line_and_begins_nothing(cli: Cli, mistake: str) -> None:
    text, said = MISTAKES[mistake]
    path = cli.configure(text + ("" if mistake == "no YAML" else SANDBOX))
    for arguments in (["check-config", str(path)], ["check-config", "--config", str(path)]):
        assert f"{path}:{said}" in cli.fails(2, *arguments)
    assert said in cli.fails(2, "check-config")
    found = json.loads(cli.run("check-config", "--json").stdout)
    assert [set(problem) for problem in found] == [{"where", "message", "fix"}] * len(found)
    assert said.startswith(found[0]["where"].rpartition(":")[2] + ": ")
    assert cli.files() == {"llmguard.yaml"}


@pytest.mark.parametrize(
    "command", ["serve", "doctor", "migrate", "report", "keys list", "budgets list", "config show"]
)
def test_no_command_begins_with_a_wrong_configuration(cli: Cli, command: str) -> None:
    path = cli.configure("server: {prot: 1}\n" + SANDBOX)
    assert cli.fails(2, *command.split()) == "llmguard.yaml:1: server has no key 'prot'; write port\n"
    assert str(path) in cli.fails(2, *command.split(), "--config", str(path))
    assert cli.files() == {"llmguard.yaml"}


def test_a_file_that_is_not_there(cli: Cli) -> None:
    assert cli.fails(2, "check-config", "gone.yaml") == (
        "gone.yaml: there is no such file; name an existing file with --config or LLMGUARD_CONFIG\n"
    )


def test_a_right_configuration(cli: Cli) -> None:
    cli.configure(EVERYTHING)
    assert cli.ok("check-config") == "the configuration is right\n"
    assert cli.json("check-config") == []
    assert cli.files() == {"llmguard.yaml"}


def test_schema_is_the_published_one(cli: Cli) -> None:
    assert json.loads(cli.ok("config", "schema")) == cli.json("config", "schema") == json_schema()


def test_show_masks_secrets(cli: Cli) -> None:
    cli.configure(
        "store: redis://user:hunter2@localhost:6379/0\n"
        f"secrets: {{pepper: {'0123456789abcdef' * 4}, signing: [{'fedcba9876543210' * 4}], cache: []}}\n" + EVERYTHING
    )
    for shown in (cli.ok("config", "show"), json.dumps(cli.json("config", "show"))):
        assert "redis://***@localhost:6379/0" in shown
        for secret in ("hunter2", "0123456789abcdef", "fedcba9876543210", "sk-hidden"):
            assert secret not in shown


def test_show_prints_what_reads_back_as_the_same(cli: Cli) -> None:
    text = EVERYTHING.replace("sk-hidden", "'***'")
    cli.configure(text)
    again = cli.home / "again.yaml"
    again.write_text(cli.ok("config", "show"))
    assert load(again) == load(Path("llmguard.yaml"))
    assert load(cli.json("config", "show")) == load(again)
    lines = again.read_text().splitlines()
    for line in (
        "  max_body: 1MiB",
        "  drain: 0ms",
        "    passthrough: $0.01",
        "      total: 90s",
        "    output: $0.000000001/M",
        "  limit: $50.25",
        "  overshoot: 33.3333%",
        "  limit: 2000000 tokens",
        "  limit: 600 per 60 seconds",
        "  limit: 100000 tokens per 7200 seconds",
        "on_disconnect: drain",
    ):
        assert line.strip() in map(str.strip, lines), line


def test_show_without_a_file_is_development_mode(cli: Cli) -> None:
    shown = cli.json("config", "show")
    assert (shown["store"], shown["ledger"]) == ("memory://", "sqlite:///llmguard.db")
    assert list(shown["providers"]) == ["sandbox"]
