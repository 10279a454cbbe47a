"""From a source to a configuration: what stands in it, what holds without being written, development mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmguard.config import Config, check, load
from llmguard.core.money import NANO
from llmguard.core.rules import BudgetRule, LimitRule
from llmguard.errors import ConfigError
from llmguard.pricing import Catalog

STRONG = [f"{n:02x}" * 4 + "0123456789abcdef" * 3 + "01234567" for n in range(5)]

WHOLE = f"""
server: {{host: 0.0.0.0, port: 8443, workers: 4, max_body: 20MiB, drain: 1m}}
store: redis://:${{REDIS_PASSWORD}}@localhost:6379/0
ledger: postgresql://llmguard:secret@localhost/llmguard
secrets: {{pepper: {STRONG[0]}, signing: ["${{SIGN}}", {STRONG[1]}], cache: [{STRONG[2]}]}}
spool: {{path: /var/lib/llmguard/spool, durability: standard, quota: 2GiB}}
providers:
  openai:    {{dialect: openai, base_url: https://api.openai.com/v1, keys: ["${{OPENAI_API_KEY}}"], default: true}}
  anthropic:
    {{dialect: anthropic, keys: [sk-ant], passthrough: $0.01, timeouts: {{first_byte: 2m}}, on_disconnect: drain}}
  local:     {{dialect: openai, base_url: http://127.0.0.1:9000/v1, keys: [x], internal: true}}
models:
  smart: openai/gpt-4o
  house: {{targets: [{{provider: local, model: llama-3}}]}}
prices: {{local/*: {{input: $1/M, output: $4/M, cached_input: $0.1/M, output_max: 8192}}}}
budgets:
  - {{name: search-hourly, scope: {{team: search, env: prod}}, limit: $50, window: hour, timezone: Europe/Berlin}}
  - {{name: per-feature-day, scope: {{team: "*", feature: "*"}}, limit: 2M tokens, window: day, overshoot: 50%}}
  - {{name: per-key-total, scope: {{key: "*"}}, limit: $500, window: total, overshoot: 0, when_store_down: deny}}
limits:
  - {{name: rpm, scope: {{key: "*"}}, limit: 600/minute}}
  - {{name: tpm, scope: {{}}, limit: 100k tokens/minute}}
  - {{name: parallel, scope: {{team: "*"}}, limit: 50 concurrent}}
unknown_model: refuse
clamp: off
streams: {{on_disconnect: cancel}}
"""
ENV = {"REDIS_PASSWORD": "r3dis", "SIGN": STRONG[3], "OPENAI_API_KEY": "sk-openai"}


@pytest.fixture
def whole(tmp_path: Path) -> Config:
    path = tmp_path / "llmguard.yaml"
    path.write_text(WHOLE)
    return load(path, ENV)


def test_every_section_is_read(whole: Config) -> None:
    server = whole.server
    assert (server.host, server.port, server.workers, server.max_body, server.drain) == (
        "0.0.0.0",
        8443,
        4,
        20 * 2**20,
        60_000,
    )
    assert whole.store == "redis://:r3dis@localhost:6379/0"
    assert whole.secrets.signing[0].get_secret_value() == STRONG[3]
    assert (whole.spool.path, whole.spool.quota) == ("/var/lib/llmguard/spool", 2 * 2**30)
    anthropic = whole.providers["anthropic"]
    assert (anthropic.passthrough, anthropic.timeouts.first_byte, anthropic.timeouts.connect) == (
        NANO // 100,
        120_000,
        5_000,
    )
    assert anthropic.address == "https://api.anthropic.com"
    assert (whole.on_disconnect("anthropic"), whole.on_disconnect("openai")) == ("drain", "cancel")
    assert (whole.models["smart"].target.provider, whole.models["smart"].target.model) == ("openai", "gpt-4o")
    assert whole.models["house"].target.model == "llama-3"
    assert (whole.unknown_model, whole.clamp, whole.development) == ("refuse", False, False)


def test_rules_are_frozen_values(whole: Config) -> None:
    assert whole.budget_rules[:3] == (
        BudgetRule("search-hourly", {"team": "search", "env": "prod"}, 50 * NANO, "usd", "hour", "Europe/Berlin"),
        BudgetRule("per-feature-day", {"team": "*", "feature": "*"}, 2_000_000, "tokens", "day", "UTC", 500_000),
        BudgetRule("per-key-total", {"key": "*"}, 500 * NANO, "usd", "total", "UTC", 0, when_store_down="deny"),
    )
    assert whole.limit_rules == (
        LimitRule("rpm", {"key": "*"}, "rate", 600, 60_000),
        LimitRule("tpm", {}, "tokens", 100_000, 60_000),
        LimitRule("parallel", {"team": "*"}, "concurrent", 50),
    )


def test_missing_attribution_has_a_budget_without_being_written(whole: Config) -> None:
    assert whole.budget_rules[3:] == (
        BudgetRule("unattributed-team", {"team": "unattributed"}, NANO, "usd", "day"),
        BudgetRule("unattributed-feature", {"team": "*", "feature": "unattributed"}, NANO, "usd", "day"),
    )
    own = {"name": "mine", "scope": {"team": "unattributed"}, "limit": "$7", "window": "hour"}
    rules = load({"providers": {"s": {"dialect": "sandbox"}}, "budgets": [own]}, {}).budget_rules
    assert [(rule.name, rule.limit) for rule in rules] == [("mine", 7 * NANO), ("unattributed-feature", NANO)]


def test_the_catalog_takes_providers_and_prices(whole: Config) -> None:
    quote = Catalog(whole.origins, whole.overrides).quote("local", "llama-3")
    assert (quote.price.rates.input, quote.price.rates.output) == (10**9, 4 * 10**9)
    assert (quote.price.rates.cached_input, quote.max_output, quote.price.version) == (10**8, 8_192, "config")


def test_nothing_shows_a_secret(whole: Config) -> None:
    for text in (repr(whole), str(whole), whole.model_dump_json(), repr(whole.providers["openai"])):
        for secret in (*STRONG[:4], "sk-openai", "sk-ant", "r3dis", "llmguard:secret"):
            assert secret not in text


def test_equal_files_make_equal_configurations(whole: Config, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(WHOLE + "\n# a comment\n")
    assert load(path, ENV) == whole
    assert load(path, {**ENV, "LLMGUARD_SERVER__PORT": "1"}) != whole


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "llmguard.yaml"
    path.write_text(WHOLE)
    env = {
        **ENV,
        "LLMGUARD_SERVER__PORT": "9000",
        "LLMGUARD_CLAMP": "true",
        "LLMGUARD_PROVIDERS__ANTHROPIC__KEYS": "sk-other",
        "LLMGUARD_LIMITS": '[{"name": "only", "scope": {}, "limit": "1/second"}]',
        "LLMGUARD_SECRETS__SIGNING": STRONG[4],
    }
    config = load(path, env)
    assert (config.server.port, config.clamp) == (9000, True)
    assert [key.get_secret_value() for key in config.providers["anthropic"].keys] == ["sk-other"]
    assert [rule.name for rule in config.limit_rules] == ["only"]
    assert len(config.secrets.signing) == 1


def test_the_environment_alone_can_be_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"LLMGUARD_PROVIDERS__OPENAI__DIALECT": "openai", "LLMGUARD_PROVIDERS__OPENAI__KEYS": '["a", "b"]'}
    config = load(None, {**env, "LLMGUARD_SERVER__HOST": "0.0.0.0"})
    assert not config.development
    assert len(config.providers["openai"].keys) == 2


def test_without_a_source_the_named_file_is_taken_then_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llmguard.yaml").write_text("server: {port: 1}\nproviders: {s: {dialect: sandbox}}\n")
    Path("other.yaml").write_text("server: {port: 2}\nproviders: {s: {dialect: sandbox}}\n")
    assert load(None, {}).server.port == 1
    assert load(None, {"LLMGUARD_CONFIG": "other.yaml"}).server.port == 2
    assert load("llmguard.yaml", {"LLMGUARD_CONFIG": "other.yaml"}).server.port == 1


class TestDevelopmentMode:
    @pytest.fixture(autouse=True)
    def _nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_needs_nothing(self) -> None:
        config = load(None, {})
        assert config.development
        assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
        assert (config.store, config.ledger) == ("memory://", "sqlite:///llmguard.db")
        assert {name: p.dialect for name, p in config.providers.items()} == {"sandbox": "sandbox"}
        assert config.providers["sandbox"].address is None

    def test_uses_the_providers_keys_it_finds(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("sk-gemini\n")
        config = load(None, {"OPENAI_API_KEY": "sk-1", "GEMINI_API_KEY_FILE": str(tmp_path / "key")})
        assert set(config.providers) == {"sandbox", "openai", "gemini"}
        assert config.providers["gemini"].keys[0].get_secret_value() == "sk-gemini"

    def test_listens_to_this_machine_only(self) -> None:
        for host in ("127.0.0.1", "localhost", "::1"):
            assert load(None, {"LLMGUARD_SERVER__HOST": host}).server.host == host
        for host in ("0.0.0.0", "10.0.0.1", "example.com"):
            (problem,) = check(None, {"LLMGUARD_SERVER__HOST": host})
            assert problem.where == "LLMGUARD_SERVER__HOST"
            assert "this machine only" in problem.message

    def test_a_key_that_cannot_be_read_is_a_problem(self) -> None:
        (problem,) = check(None, {"OPENAI_API_KEY_FILE": "/none"})
        assert problem.where == "OPENAI_API_KEY"


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("server: {port: x, prt: 1}\nproviders: {s: {dialect: sandbox}}\nclamp: maybe\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert len(caught.value.problems) == 3
    assert caught.value.problems == check(path, {})
    assert str(caught.value).count("\n") == 2


def test_a_configuration_does_not_change() -> None:
    config = load({"providers": {"s": {"dialect": "sandbox"}}}, {})
    with pytest.raises(ValueError, match="frozen"):
        config.clamp = False


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("store", "memory://"),
        ("store", "redis://localhost"),
        ("store", "rediss://user:pw@redis.example:6380/3"),
        ("store", "redis+cluster://node-1:6379"),
        ("store", "redis://[::1]:6379/0"),
        ("ledger", "sqlite:///x.db"),
        ("ledger", "sqlite:////var/lib/x.db"),
    ],
)
def test_stores_and_ledgers(key: str, url: str) -> None:
    assert check({key: url, "providers": {"s": {"dialect": "sandbox"}}}, {}) == []
