"""What the documents say is true: configurations load, commands exist, queries run, lists are whole."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from llmguard.cli.root import app
from llmguard.config import check, load, units
from llmguard.core.decision import Refuse
from llmguard.ledger import Ledger
from llmguard.providers.base import llmguard_object
from tests.support import config_tables
from tests.support.cli import Cli

ROOT = Path(__file__).parents[3]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/*.md"))]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ENVIRONMENT = {
    "LLMGUARD_PEPPER": "0123456789abcdef" * 4,
    "LLMGUARD_SIGNING_KEY": "fedcba9876543210" * 4,
    "LLMGUARD_CACHE_KEY": "02468ace13579bdf" * 4,
    "OPENAI_API_KEY": "sk-openai",
    "ANTHROPIC_API_KEY": "sk-anthropic",
    "GEMINI_API_KEY": "gemini",
}


def blocks(language: str) -> list[Any]:
    """The blocks of a language on all pages, each named by its place."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: block.start()].count("\n") + 1
            found.append(pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def commands() -> list[list[str]]:
    """The arguments of every `llmguard` command that a page shows."""
    lines = [line for block in blocks("console") for line in block.values[0].splitlines() if line.startswith("$ ")]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [arguments for program, *arguments in words if program.removeprefix(".venv/bin/") == "llmguard"]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_configuration_is_right(text: str, tmp_path: Path) -> None:
    path = tmp_path / "llmguard.yaml"
    path.write_text(text)
    assert check(path, ENVIRONMENT) == []


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_has_these_options(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("text", blocks("python"))
def test_every_snippet_compiles(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", blocks("json"))
def test_the_refusal_has_the_members_that_refusals_have(text: str) -> None:
    error = json.loads(text)["error"]
    assert list(error["llmguard"]) == list(llmguard_object(Refuse("budget_exceeded", 429, ""), "id"))


@pytest.mark.parametrize("text", blocks("sql"))
def test_every_query_runs(text: str, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", pepper=b"p" * 32)
    ledger.migrate()
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert database.execute(text).fetchall() == []


def test_there_is_a_block_of_each_kind() -> None:
    counts = {kind: len(blocks(kind)) for kind in ("yaml", "console", "python", "json", "sql")}
    assert all(counts.values()), counts


def test_every_key_of_the_configuration_is_documented() -> None:
    assert config_tables.tables() == list(config_tables.SECTIONS)
    assert config_tables.page() == config_tables.PAGE.read_text(), "run: python -m tests.support.config_tables"


def test_every_size_is_written_so() -> None:
    parsers = {
        "money": units.money,
        "tokens": units.tokens,
        "price per token": units.price,
        "rate": units.rate,
        "length of time": units.duration,
        "bytes": units.size,
        "share": units.share,
        "frequency": units.often,
    }
    text = config_tables.PAGE.read_text().partition("## How sizes are written")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| (.*`.*) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(parsers)
    for name, examples in rows:
        for example in re.findall(r"`([^`]+)`", examples):
            parsers[name](example)


def test_every_section_of_the_configuration_has_a_table() -> None:
    waiting, found = [config_tables.SECTIONS[""]], set()
    while waiting:
        section = waiting.pop()
        found.add(section)
        for field in section.model_fields.values():
            waiting += [part for part in _sections(field.annotation) if part not in found]
    assert found == set(config_tables.SECTIONS.values())


def _sections(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, config_tables.Section):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _sections(part)


def test_every_code_a_caller_may_meet_is_documented() -> None:
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "src" / "llmguard").rglob("*.py")))
    patterns = (
        r'Refuse\(\s*"(\w+)"',
        r'\bcode="(\w+)"',
        r'Violation\(\s*\d+,\s*"(\w+)"',
        r'"(budget_\w+|request_exceeds_budget)", (?:429|403)',
        r'"(upstream_\w+)"',
    )
    codes = {found for pattern in patterns for found in re.findall(pattern, sources)} - {"upstream_failed"}
    assert len(codes) > 40
    assert [code for code in sorted(codes) if f"`{code}`" not in OPERATIONS] == []


def test_every_metric_is_documented() -> None:
    source = (ROOT / "src/llmguard/runtime/samples.py").read_text()
    counters = re.findall(r'Sample\("(llmguard_\w+)".*"counter"', source)
    metrics = {f"{name}_total" if name in counters else name for name in re.findall(r'"(llmguard_\w+)"', source)}
    assert metrics == set(re.findall(r"^\| `(llmguard_\w+)", OPERATIONS, re.MULTILINE))


def test_every_column_of_the_view_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cli(tmp_path, monkeypatch).ok("migrate")
    with sqlite3.connect("llmguard.db") as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(ledger_entries)")]
    described = OPERATIONS.partition("| column | meaning |")[2].partition("\n\n")[0]
    assert set(columns) == set(re.findall(r"`(\w+)`", re.sub(r"\| [^|]* \|$", "|", described, flags=re.MULTILINE)))


def test_the_compose_file_completes_the_readme_s_configuration(tmp_path: Path) -> None:
    text = (ROOT / "compose.yaml").read_text().replace("${POSTGRES_PASSWORD:?}", "word")
    gateway = YAML(typ="safe", pure=True).load(text)["services"]["gateway"]
    path = tmp_path / "llmguard.yaml"
    path.write_text((ROOT / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0])
    config = load(path, ENVIRONMENT | gateway["environment"])
    assert config.store == "redis://store:6379/0"
    assert config.ledger == "postgresql://llmguard:word@ledger/llmguard"
    assert config.spool.path == "/var/lib/llmguard/spool"


def test_the_image_is_built_from_files_that_are_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in [name for names in copied for name in names]:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored or f"!{name.partition('/')[0]}/" in ignored


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert dead == []
