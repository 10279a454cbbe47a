"""Virtual keys as text."""

from __future__ import annotations

import pytest

from llmguard.ledger.keytext import ParsedKey, digest, env_word, new_id, new_key, parse_key


def test_a_key_names_its_environment_and_id() -> None:
    key_id = new_id()
    text = new_key("prod", key_id)
    assert parse_key(text) == ParsedKey("prod", key_id, text)
    assert text.startswith(f"lg_prod_{key_id}_")
    assert len(text.rsplit("_", 1)[1]) == 49
    assert new_key("prod", key_id) != text


@pytest.mark.parametrize(
    ("env", "word"),
    [("prod", "prod"), ("Prod EU_1", "prod-eu-1"), ("été", "t"), ("_", "-"), ("", "-"), ("a" * 99, "a" * 32)],
)
def test_the_environment_is_reduced_to_what_a_key_may_hold(env: str, word: str) -> None:
    assert env_word(env) == word
    parsed = parse_key(new_key(env, new_id()))
    assert parsed is not None
    assert parsed.env == word


def test_a_mistyped_key_is_refused_at_every_place() -> None:
    text = new_key("prod", new_id())
    for at, right in enumerate(text):
        wrong = "x" if right != "x" else "y"
        assert parse_key(text[:at] + wrong + text[at + 1 :]) is None, f"character {at}"
        assert parse_key(text[:at]) is None
    assert parse_key(text + "0") is None


@pytest.mark.parametrize("text", ["", "lg", "sk-proj-abc", "lg_a_b_c", "lg_prod_id_" + "é" * 49, "lg____", "_" * 60])
def test_anything_else_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_a_digest_needs_the_pepper() -> None:
    text = new_key("prod", new_id())
    assert digest(text, b"a") == digest(text, b"a")
    assert digest(text, b"a") != digest(text, b"b")
    assert len(digest(text, b"a")) == 32
