"""Reading YAML with lines, and refusing what is more than data."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmguard.config.document import Document, dotted, from_file, from_mapping


def read(tmp_path: Path, text: str) -> Document:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return from_file(path)


def test_values_keep_their_types_and_lines(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb:\n  - x\n  - {c: true, d: null, e: 1.5, f: '12', g: 2024-01-01, h: yes}\n")
    assert document.tree == {
        "a": 1,
        "b": ["x", {"c": True, "d": None, "e": 1.5, "f": "12", "g": "2024-01-01", "h": "yes"}],
    }
    assert document.where(("b", 1, "f")).endswith("c.yaml:4")
    assert document.where(("b", 0)).endswith("c.yaml:3")
    assert document.where(("b", 1, "unheard")).endswith("c.yaml:4")
    assert document.where(("z",)) == document.name
    assert document.problems == []


def test_anchors_stand_for_their_values(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &x {b: 1}\nc: *x\n").tree == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a stands here a second time"),
        ("s:\n  a: 1\n  a: 2\n", 3, "s.a stands here a second time"),
        ("a: [1\n", 2, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\n---\nb: 1\n", 2, "another document"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "tag"),
        ("a: !!python/object/apply:os.system x\n", 1, "tag"),
        ("a:\n  b: !set {c: 1}\n", 2, "tag"),
        ("b: &x {c: 1}\na:\n  <<: *x\n", 3, "no plain word"),
        ("? [a, b]\n: 1\n", 1, "no plain word"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    (problem,) = read(tmp_path, text).problems
    assert problem.where.endswith(f"c.yaml:{line}")
    assert words in problem.message


@pytest.mark.parametrize("text", ["- a\n", "just words\n", "a: \x00\n"])
def test_a_file_that_holds_no_sections(tmp_path: Path, text: str) -> None:
    assert len(read(tmp_path, text).problems) == 1


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    document = read(tmp_path, "# nothing yet\n")
    assert (document.tree, document.problems) == ({}, [])


def test_anchors_cannot_multiply_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = read(tmp_path, "\n".join(lines)).problems
    assert "more than 100000 values" in problem.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in from_file(tmp_path / "none.yaml").problems[0].message
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    assert "cannot be read" in from_file(tmp_path / "latin.yaml").problems[0].message
    assert "cannot be read" in from_file(tmp_path).problems[0].message


def test_a_mapping_is_located_by_its_keys() -> None:
    document = from_mapping({"budgets": ({"name": "a"},)})
    assert document.tree == {"budgets": [{"name": "a"}]}
    assert document.where(("budgets", 0, "name")) == "budgets[0].name"
    assert dotted(()) == "the configuration"
