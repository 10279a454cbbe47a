"""`${VAR}` in values, `LLMGUARD_…` over keys, `…_FILE` for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmguard.config.document import Document, from_mapping
from llmguard.config.environment import Environment, expand, overlay

ROOTS = ("server", "store", "secrets", "providers", "budgets", "clamp")


def expanded(tree: dict[str, Any], **variables: str) -> Document:
    document = from_mapping(tree)
    expand(document, Environment(variables), but=set())
    return document


def overlaid(tree: dict[str, Any], **variables: str) -> Document:
    document = from_mapping(tree)
    overlay(document, Environment(variables), ROOTS)
    return document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"),
        ("x-${A}-${B:-two}-y", "x-one-two-y"),
        ("${B:-}", ""),
        ("${EMPTY:-z}", "z"),
        ("$50", "$50"),
        ("$A", "$A"),
        ("$${A}", "${A}"),
        ("${B:-a:-b}", "a:-b"),
    ],
)
def test_references(text: str, value: str) -> None:
    document = expanded({"k": [{"v": text}]}, A="one", EMPTY="")
    assert document.tree == {"k": [{"v": value}]}
    assert document.problems == []


def test_keys_are_not_expanded() -> None:
    assert expanded({"${A}": 1}, A="one").tree == {"${A}": 1}


@pytest.mark.parametrize(
    ("text", "words"), [("${A}", "the variable A, which is not set"), ("${A", "not closed"), ("${1}", "not closed")]
)
def test_references_that_lead_nowhere(text: str, words: str) -> None:
    document = expanded({"k": text})
    (problem,) = document.problems
    assert words in problem.message
    assert ("k",) in document.broken


def test_a_file_stands_in_for_a_variable(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("from a file\n")
    assert expanded({"k": "${A}"}, A_FILE=str(tmp_path / "s")).tree == {"k": "from a file"}
    assert overlaid({}, LLMGUARD_STORE_FILE=str(tmp_path / "s")).tree == {"store": "from a file"}
    assert overlaid({}, LLMGUARD_SECRETS__PEPPER_FILE=str(tmp_path / "s")).tree == {
        "secrets": {"pepper": "from a file"}
    }


def test_files_that_cannot_stand_in(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "none", tmp_path / "empty", tmp_path):
        assert len(overlaid({}, LLMGUARD_STORE_FILE=str(path)).problems) == 1
    (problem,) = overlaid({}, LLMGUARD_STORE="a", LLMGUARD_STORE_FILE="b").problems
    assert "set twice" in problem.message
    assert problem.where == "LLMGUARD_STORE"


def test_variables_lie_over_keys() -> None:
    tree = {"server": {"port": 1}, "providers": {"Open-AI": {"keys": ["a"]}}, "budgets": [{"limit": "$1"}]}
    document = overlaid(
        tree,
        LLMGUARD_SERVER__PORT="2",
        LLMGUARD_PROVIDERS__OPEN_AI__KEYS='["b", "c"]',
        LLMGUARD_PROVIDERS__LOCAL__DIALECT="openai",
        LLMGUARD_BUDGETS__0__LIMIT="$2",
        LLMGUARD_BUDGETS__1='{"name": "n"}',
        LLMGUARD_CLAMP="off",
        LLMGUARD_SECRETS__PEPPER="${not expanded}",
    )
    assert document.problems == []
    assert document.tree == {
        "server": {"port": "2"},
        "providers": {"Open-AI": {"keys": ["b", "c"]}, "local": {"dialect": "openai"}},
        "budgets": [{"limit": "$2"}, {"name": "n"}],
        "clamp": "off",
        "secrets": {"pepper": "${not expanded}"},
    }
    assert document.where(("server", "port")) == "LLMGUARD_SERVER__PORT"


def test_variables_that_are_not_about_the_configuration_are_left_alone() -> None:
    document = overlaid({}, LLMGUARD_CONFIG="x", LLMGUARD_PEPPER="y", OTHER__KEY="z", LLMGUARD_SERVER__PORT="")
    assert (document.tree, document.problems) == ({}, [])


@pytest.mark.parametrize(
    "variables",
    [
        {"LLMGUARD_BUDGETS__5__LIMIT": "$1"},
        {"LLMGUARD_BUDGETS__5": "{}"},
        {"LLMGUARD_BUDGETS__X": "1"},
        {"LLMGUARD_BUDGETS": "[1"},
    ],
)
def test_variables_that_name_nothing(variables: dict[str, str]) -> None:
    document = overlaid({"budgets": [{"limit": "$1"}]}, **variables)
    assert len(document.problems) == 1
    assert document.problems[0].where == next(iter(variables))
