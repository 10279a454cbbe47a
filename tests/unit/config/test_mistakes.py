"""Every mistake is named once: file, line, the wrong value (never a secret's), and a right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmguard.config import check
from llmguard.errors import Problem

PROVIDERS = "providers: {openai: {dialect: openai, keys: [k]}}\n"
BUDGET = "budgets: [{name: b, scope: {}, limit: $5, window: day"
STRONG = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


def problems(tmp_path: Path, text: str, **env: str) -> list[Problem]:
    path = tmp_path / "llmguard.yaml"
    path.write_text(text)
    return check(path, env)


# (the lines with the mistake, what is said about it, what is said to be written)
MISTAKES = {
    "an unknown section": ("servr: {port: 1}", "the configuration has no key 'servr'", "write server"),
    "an unknown key": ("server: {prot: 8080}", "server has no key 'prot'", "write port"),
    "a key unlike any": ("server: {colour: red}", "server has no key 'colour'", "use one of host, port"),
    "a section of another version": ("auth: {oidc: []}", "auth is not in this version", "remove the section"),
    "a key of another version": (
        "models: {smart: {strategy: fallback, targets: [{provider: openai, model: gpt-4o}]}}",
        "models.smart.strategy is not in",
        "name one target",
    ),
    "a threshold": (BUDGET + ", alert_at: [50%, 120%]}]", "budgets[0].alert_at[1] is '120%', more than", "to 100%"),
    "a threshold of nothing": (BUDGET + ", alert_at: [0%]}]", "not between 1% and 100%", "from 1% to 100%"),
    "an alert without an address": ("alerts: [{on: [trip]}]", "alerts[0].url is missing", "write url: https://"),
    "an alert's address": (
        "alerts: [{url: ftp://h/token}]",
        "alerts[0].url is set (its value is not shown), not a web address",
        "write https://host/path",
    ),
    "an alert to a private address": (
        "alerts: [{url: https://10.0.0.1/token}]",
        "alerts[0].url is on an address that is not public",
        "internal: true",
    ),
    "an alert in the clear": (
        "alerts: [{url: http://h.example/token}]",
        "alerts[0].url would send alerts unencrypted",
        "write https://",
    ),
    "an alert about something else": (
        "alerts: [{url: https://h.example, on: [trips]}]",
        "alerts[0].on[0] is 'trips', not one of budget, trip, drift",
        "write trip",
    ),
    "an alert about nothing": ("alerts: [{url: https://h.example, on: []}]", "alerts[0].on is empty", "write on: ["),
    "a gateway with a path": (
        "gateway: https://u:pw@llm.corp.example/v1",
        "gateway is 'https://***@llm.corp.example/v1', which is no origin",
        "write scheme, host and port only",
    ),
    "a frequency": (
        "runaway: {identical_prompts: 20}",
        "runaway.identical_prompts is 20, not a number of times",
        "such as 20/10m",
    ),
    "a frequency of nothing": ("runaway: {similar_prompts: 0/10m}", "never, or in no time", "such as 20/10m"),
    "a mode of the runaway guard": ("runaway: {mode: shadow}", "not one of off, warn, enforce", "write one of"),
    "a kind of payload": (
        "audit: {payloads: some}",
        "audit.payloads is 'some', not one of off, redacted, full",
        "write one of",
    ),
    "a pattern to mask": (
        'audit: {redact: ["EMP-[0-9"]}',
        "audit.redact[0] is 'EMP-[0-9', not a regular expression (unterminated character set",
        "write one of Python's",
    ),
    "how long payloads are kept": ("audit: {keep: 1m}", "audit.keep is '1m', not between 1h and 3650d", "from 1h"),
    "an empty section": ("server:", "server is empty", "remove the line"),
    "a section that is no mapping": ("server: [1]", "server is [1], not a mapping", "write server: {port: 8080}"),
    "a list that is none": ("limits: {name: x}", "limits is {'name': 'x'}, not a list", "write limits: ["),
    "a port that is no number": ("server: {port: http}", "server.port is 'http', not a whole number", "digits"),
    "a port out of range": ("server: {port: 99999}", "server.port is 99999, which is out of range", "write port: 8080"),
    "a truth value": ("clamp: perhaps", "clamp is 'perhaps', neither true nor false", "write true or false"),
    "a choice": ("unknown_model: chrge", "unknown_model is 'chrge', not one of charge, refuse", "write charge"),
    "a host": ('server: {host: "*"}', "server.host is '*', not an address", "0.0.0.0"),
    "a body size": ("server: {max_body: 10 megs}", "server.max_body is '10 megs', not a size", "10MiB"),
    "a body size out of range": ("server: {max_body: 1GiB}", "not between 1KiB and 64MiB", "from 1KiB to 64MiB"),
    "a length of time": ("server: {drain: 30}", "server.drain is 30, not a length of time", "30s"),
    "workers over a memory store": ("server: {workers: 4}", "server.workers is 4", "redis://localhost:6379/0"),
    "a store that is no URL": ("store: redis", "store is 'redis', not a URL", "scheme://"),
    "a store of another kind": ("store: memcached://h", "store is 'memcached://h', which no store", "memory://"),
    "a store in memory with a name": ("store: memory://x", "store is 'memory://x', which no store", "memory://"),
    "a Redis database": ("store: redis://:pw@h/db", "store is 'redis://***@h/db', without a host or", "6379/0"),
    "a ledger of another kind": ("ledger: mysql://u:pw@h/d", "ledger is 'mysql://***@h/d'", "sqlite:///llmguard.db"),
    "a ledger without a file": ("ledger: sqlite://", "ledger is 'sqlite://', which names no file", "three slashes"),
    "a ledger in memory": ('ledger: "sqlite:///:memory:"', "which names no file", "sqlite:///llmguard.db"),
    "a ledger without a database": (
        f"ledger: postgresql://h\nsecrets: {{pepper: {STRONG}, signing: [{OTHER}], cache: [{OTHER[::-1].upper()}]}}",
        "ledger is 'postgresql://h', which names no database",
        "postgresql://localhost/llmguard",
    ),
    "no secrets for a server": (
        "ledger: postgresql://h/d",
        "secrets are missing",
        "write these, and keep them: secrets:",
    ),
    "durability": ("spool: {durability: strict}", "spool.durability is 'strict', which is not in", "write standard"),
    "a short secret": (
        "secrets: {pepper: tooshort}",
        "secrets.pepper is too weak (8 characters)",
        "openssl rand -hex 32",
    ),
    "a monotonous secret": (f"secrets: {{signing: [{'ab' * 32}]}}", "secrets.signing[0] is too weak", "openssl rand"),
    "a secret used twice": (
        f"secrets: {{pepper: {STRONG}, signing: [{STRONG}]}}",
        "secrets.signing[0] is the same secret as secrets.pepper",
        "make each",
    ),
    "a secret that is a number": (
        "secrets: {pepper: 12345}",
        "secrets.pepper is set (its value is not shown)",
        "PEPPER",
    ),
    "a variable that is not set": (
        'secrets: {pepper: "${PEPPER}"}',
        "secrets.pepper is to come from the variable PEPPER, which is not set",
        "set PEPPER (or PEPPER_FILE)",
    ),
    "an alias to nobody": ("models: {smart: azure/gpt-4o}", "models.smart goes to 'azure', which is no", "use openai"),
    "an alias without a provider": (
        "models: {smart: gpt-4o}",
        "models.smart is 'gpt-4o', not a model at",
        "openai/gpt-4o",
    ),
    "an alias to many": (
        "models: {smart: {targets: [{provider: openai, model: a}, {provider: openai, model: b}]}}",
        "an alias with several targets, between which this version cannot choose",
        "keep one: openai/a",
    ),
    "a strategy": (
        "models: {smart: {strategy: fallback, targets: [{provider: openai, model: a}]}}",
        "models.smart.strategy is not in this version",
        "smart: openai/gpt-4o",
    ),
    "an alias for everything": ('models: {"*": openai/gpt-4o}', "models has the wildcard '*'", "name each model"),
    "an alias like a target": ('models: {"a/b": openai/gpt-4o}', "models has 'a/b', which reads as", "without a slash"),
    "a price for everything": ('prices: {"*/*": {input: $0/M}}', "which names every model of every", "local/*"),
    "a price without a unit": ("prices: {openai/x: {input: $1}}", "input is '$1', not a price per token", "$2.50/M"),
    "a price that is a number": ("prices: {openai/x: {input: 0.5}}", "input is 0.5, not a price per token", "$2.50/M"),
    "a price without input": (
        "prices: {openai/x: {output: $1/M}}",
        "a price without `input`",
        "{input: $1/M, output: $4/M}",
    ),
    "an empty price": ("prices: {openai/x: {}}", "prices.openai/x is {}, empty", "leave the line out"),
    "a price for nobody": ("prices: {azure/*: {input: $1/M}}", "prices has 'azure/*', which names no", "use openai"),
    "a price for no model": (
        "prices: {openai: {input: $1/M}}",
        "prices has 'openai', which is no provider/model",
        "local/*",
    ),
    "a budget without a limit": (
        "budgets: [{name: b, scope: {}, window: day}]",
        "budgets[0].limit is missing",
        "limit: $50",
    ),
    "a budget without a scope": (
        "budgets: [{name: b, limit: $5, window: day}]",
        "budgets[0].scope is missing",
        "team: search",
    ),
    "a budget without a unit": (BUDGET.replace("$5", "50") + "}]", "budgets[0].limit is 50, an amount without", "$50"),
    "a budget of nothing": (BUDGET.replace("$5", "$0") + "}]", "budgets[0].limit is '$0', a budget of nothing", "$50"),
    "a budget below nothing": (BUDGET.replace("$5", "-$5") + "}]", "limit is '-$5', less than nothing", "$50"),
    "a window": (BUDGET.replace("day", "fortnight") + "}]", "window is 'fortnight', not one of hour", "hour, day"),
    "a window of another version": (
        BUDGET.replace("day", "rolling") + "}]",
        "which is not in this version",
        "hour, day",
    ),
    "a time zone": (BUDGET + ", timezone: Mars/Base}]", "timezone is 'Mars/Base', not a time zone", "Europe/Berlin"),
    "a mode": (BUDGET + ", mode: shadow}]", "mode is 'shadow', which is not in this version", "write enforce"),
    "an overshoot": (BUDGET + ", overshoot: 0.1}]", "overshoot is 0.1, not a percentage", "10%"),
    "a store policy": (BUDGET + ", when_store_down: hope}]", "when_store_down is 'hope', not one of", "local, deny"),
    "a dimension": (BUDGET.replace("{}", "{tem: x}") + "}]", "a scope over 'tem', which is no dimension", "org, team"),
    "a pattern in a scope": (BUDGET.replace("{}", '{team: "s*"}') + "}]", "a pattern for team", '"*" alone'),
    "a number in a scope": (BUDGET.replace("{}", "{team: 42}") + "}]", "a scope whose team is no text", "in quotes"),
    "a provider in a scope": (
        BUDGET.replace("{}", "{provider: azure}") + "}]",
        "is 'azure', which is no",
        "use openai",
    ),
    "a rule's name": (
        "limits: [{name: a b, scope: {}, limit: 1/minute}]",
        "limits[0].name is 'a b', not a name",
        "letters",
    ),
    "a rate": ("limits: [{name: l, scope: {}, limit: 600/fortnight}]", "is '600/fortnight', not a rate", "600/minute"),
    "a rate of nothing": ("limits: [{name: l, scope: {}, limit: 0 concurrent}]", "a limit of nothing", "600/minute"),
    "two rates": (
        "limits: [{name: l, scope: {}, limit: 1/second;9/hour}]",
        "several rates in one",
        "one rule for each",
    ),
}

# (the provider's line, what is said, what is to be written)
PROVIDER_MISTAKES = {
    "no dialect": ("{keys: [k]}", "providers.p.dialect is missing", "write dialect: openai"),
    "a dialect": ("{dialect: opnai, keys: [k]}", "providers.p.dialect is 'opnai'", "write openai"),
    "a dialect of another version": (
        "{dialect: bedrock, keys: [k]}",
        "is 'bedrock', which is not in this",
        "anthropic",
    ),
    "no keys": ("{dialect: openai}", "providers.p.keys is missing", "NAME_OF_A_VARIABLE"),
    "an empty key": (
        '{dialect: openai, keys: [""]}',
        "providers.p.keys holds a key that is empty",
        "NAME_OF_A_VARIABLE",
    ),
    "a key that is a number": (
        "{dialect: openai, keys: [77]}",
        "providers.p.keys[0] is set (its value",
        "OPENAI_API_KEY",
    ),
    "a sandbox with an address": (
        "{dialect: sandbox, base_url: http://h}",
        "p.base_url is set, but the sandbox",
        "remove",
    ),
    "no URL": (
        "{dialect: openai, keys: [k], base_url: api.openai.com}",
        "base_url is 'api.openai.com', not a URL",
        "://",
    ),
    "a scheme": (
        "{dialect: openai, keys: [k], base_url: ftp://h}",
        "not an http or https address",
        "https://host/path",
    ),
    "a password in a URL": (
        "{dialect: openai, keys: [k], base_url: https://u:hunter2@h.example/v1}",
        "is 'https://***@h.example/v1', with a user or password",
        "write https://h.example/v1",
    ),
    "a query": (
        "{dialect: openai, keys: [k], base_url: https://h.example/v1?a=b}",
        "with a query",
        "https://h.example/v1",
    ),
    "plain http": ("{dialect: openai, keys: [k], base_url: http://h.example}", "unencrypted", "internal: true"),
    "a private address": ("{dialect: openai, keys: [k], base_url: https://10.0.0.1}", "not public", "internal: true"),
    "a link-local address": (
        "{dialect: openai, keys: [k], base_url: http://169.254.169.254}",
        "not public",
        "internal",
    ),
    "this machine": ("{dialect: openai, keys: [k], base_url: http://localhost:9000}", "not public", "internal: true"),
    "a port in a URL": ("{dialect: openai, keys: [k], base_url: 'https://h:99999'}", "impossible port", "host:port"),
    "a passthrough price": (
        "{dialect: openai, keys: [k], passthrough: 0.01}",
        "passthrough is 0.01, not an amount",
        "$0.50",
    ),
    "a time limit": (
        "{dialect: openai, keys: [k], timeouts: {connect: 5}}",
        "timeouts.connect is 5, not a length",
        "30s",
    ),
    "a time limit of nothing": (
        "{dialect: openai, keys: [k], timeouts: {total: 0s}}",
        "not between 1ms and 24h",
        "1ms",
    ),
    "a proxy": (
        "{dialect: openai, keys: [k], proxy: socks5://u:pw@h}",
        "proxy is 'socks5://***@h', not an HTTP",
        "http://",
    ),
}


@pytest.mark.parametrize(("lines", "said", "fix"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_its_line(tmp_path: Path, lines: str, said: str, fix: str) -> None:
    (problem,) = problems(tmp_path, f"# a comment\n{PROVIDERS}{lines}\n")
    assert problem.where == f"{tmp_path}/llmguard.yaml:3"
    assert said in problem.message
    assert fix in problem.fix


@pytest.mark.parametrize(("line", "said", "fix"), PROVIDER_MISTAKES.values(), ids=PROVIDER_MISTAKES.keys())
def test_a_providers_mistake_is_named_with_its_line(tmp_path: Path, line: str, said: str, fix: str) -> None:
    (problem,) = problems(tmp_path, f"providers:\n  fine: {{dialect: anthropic, keys: [k]}}\n  p: {line}\n")
    assert problem.where == f"{tmp_path}/llmguard.yaml:3"
    assert said in problem.message
    assert fix in problem.fix
    assert "hunter2" not in str(problem)
    assert "pw@" not in str(problem)


@pytest.mark.parametrize("name", ["bad name", "v1", "admin", "metrics", "-x"])
def test_a_provider_cannot_have_every_name(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, f"providers:\n  {name}: {{dialect: openai, keys: [k]}}\n")
    assert problem.where.endswith(":2")
    assert "name" in problem.message


@pytest.mark.parametrize("marks", ["", ", default: true"])
def test_two_providers_of_a_family_need_one_mark(tmp_path: Path, marks: str) -> None:
    text = "providers:\n" + "".join(f"  {name}: {{dialect: openai, keys: [k]{marks}}}\n" for name in "abc")
    (problem,) = problems(tmp_path, text)
    assert problem.where.endswith(":4")
    assert "family 'openai'" in problem.message
    assert problem.fix == "write default: true for one of a, b, c"


def test_one_mark_settles_it(tmp_path: Path) -> None:
    text = "providers:\n  a: {dialect: openai, keys: [k], default: true}\n  b: {dialect: openai, keys: [k]}\n"
    assert problems(tmp_path, text) == []


def test_a_name_stands_twice(tmp_path: Path) -> None:
    text = PROVIDERS + "limits:\n" + "  - {name: l, scope: {}, limit: 1/minute}\n" * 2
    (problem,) = problems(tmp_path, text)
    assert problem.where.endswith(":4")
    assert f"limits has the name 'l' twice (first: {tmp_path}/llmguard.yaml:3)" in problem.message


def test_no_provider_at_all(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "server: {port: 1}\n")
    assert "no provider is configured" in problem.message


def test_a_variable_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    env = {"LLMGUARD_SERVER__PORT": "http", "LLMGUARD_SERVR__PORT": "1", "LLMGUARD_STORE": "redis://:hunter2@/x"}
    found = problems(tmp_path, PROVIDERS, **env)
    assert [problem.where for problem in found] == ["LLMGUARD_SERVER__PORT", "LLMGUARD_SERVR__PORT", "LLMGUARD_STORE"]
    assert all("hunter2" not in str(problem) for problem in found)


def test_every_mistake_is_found_at_once(tmp_path: Path) -> None:
    """One file with all the mistakes that can stand together, each line one of them."""
    apart = ("budgets:", "limits:", "models:", "prices:", "secrets:", "server:", "ledger:", "cache:", "spool:")
    single = [lines for lines, _, _ in MISTAKES.values() if not lines.startswith(apart)]
    keys = {line.partition(":")[0]: line for line in single}
    budgets = [
        lines.removeprefix("budgets: [").removesuffix("]") for lines, _, _ in MISTAKES.values() if "budgets: [" in lines
    ]
    text = PROVIDERS + "\n".join(keys.values()) + "\nbudgets:\n" + "".join(f"  - {b}\n" for b in budgets)
    found = {problem.where for problem in problems(tmp_path, text)}
    first_budget = len(keys) + 3
    assert {f"{tmp_path}/llmguard.yaml:{n}" for n in range(first_budget, first_budget + len(budgets))} <= found
    assert {f"{tmp_path}/llmguard.yaml:{n}" for n in range(2, 2 + len(keys))} <= found
