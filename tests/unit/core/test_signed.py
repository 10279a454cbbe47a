"""The signed context: what comes back, and what is turned away and why."""

from __future__ import annotations

import random

import pytest

from llmguard.core.call import Caller
from llmguard.core.signed import EXPIRED, FORGED, HTTP, HTTP_MS, REPLAYED, Signed, Signer, task

NOW = 1_800_000_000_000
OLD, NEW, THEIRS = b"old key" * 5, b"new key" * 5, b"their key" * 5
WHO = Signed("default", "search", "prod", "chat", "user-7", "tree-1", "task-1", 3, "4bf92f3577b34da6a3ce929d0e0e4736")


def test_what_was_signed_is_read_and_stands_in_one_line_of_ascii() -> None:
    text = Signer((NEW,)).sign(WHO, task("task-1"), NOW)
    assert Signer((NEW,)).read(text, task("task-1"), NOW + 10**10) == WHO
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


def test_any_name_survives() -> None:
    odd = Signed(team='Süd "&,.\n|', feature="日本", end_user="a" * 128)
    signer = Signer((NEW,))
    assert signer.read(signer.sign(odd, HTTP, NOW), HTTP, NOW) == odd


def test_keys_rotate_the_first_one_writes_and_all_read() -> None:
    before, between, after = Signer((OLD,)), Signer((NEW, OLD)), Signer((NEW,))
    old, new = before.sign(WHO, HTTP, NOW), between.sign(WHO, HTTP, NOW)
    assert (between.read(old, HTTP, NOW), between.read(new, HTTP, NOW)) == (WHO, WHO)
    assert (before.read(new, HTTP, NOW), after.read(old, HTTP, NOW)) == (FORGED, FORGED)
    assert after.read(new, HTTP, NOW) == WHO


def test_a_header_of_another_message_is_told_from_a_forged_one() -> None:
    signer = Signer((NEW,))
    text = signer.sign(WHO, task("task-1"), NOW)
    assert signer.read(text, task("task-2"), NOW) == REPLAYED
    assert signer.read(text, HTTP, NOW) == REPLAYED
    assert Signer((THEIRS,)).read(text, task("task-1"), NOW) == FORGED


@pytest.mark.parametrize(
    ("after", "found"), [(0, WHO), (HTTP_MS, WHO), (-HTTP_MS, WHO), (HTTP_MS + 1, EXPIRED), (-HTTP_MS - 1, EXPIRED)]
)
def test_over_http_a_header_is_good_for_five_minutes(after: int, found: Signed | str) -> None:
    signer = Signer((NEW,))
    assert signer.read(signer.sign(WHO, HTTP, NOW), HTTP, NOW + after) == found


@pytest.mark.parametrize(
    "text", ["", ".", "..", "1..", "1.e30.", "2.W10.x", "1.é.é", "x" * 10_000, "1." + "." * 99, "\ud800"]
)
def test_what_nobody_signed_is_forged(text: str) -> None:
    assert Signer((NEW,)).read(text, HTTP, NOW) == FORGED


def test_no_change_of_one_character_is_overlooked() -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    signer = Signer((NEW,))
    text = signer.sign(WHO, HTTP, NOW)
    for _ in range(500):
        at = rng.randrange(len(text))
        changed = text[:at] + rng.choice("ABCabc019-_.") + text[at + 1 :]
        assert signer.read(changed, HTTP, NOW) == (WHO if changed == text else FORGED), f"seed {seed}, at {at}"


def test_a_signature_of_these_keys_for_another_purpose_means_nothing_here() -> None:
    import hmac
    from base64 import urlsafe_b64encode

    payload = "W10"
    mac = urlsafe_b64encode(hmac.digest(NEW, payload.encode(), "sha256")).decode().rstrip("=")
    assert Signer((NEW,)).read(f"1.{payload}.{mac}", HTTP, NOW) == FORGED


def test_without_a_key_nobody_signs() -> None:
    with pytest.raises(ValueError, match=r"secrets\.signing"):
        Signer(())


def test_a_caller_hands_on_who_it_is_and_neither_samples_nor_its_execution() -> None:
    caller = Caller(team="search", feature="chat", tree_id="t", task_id="i", depth=2, samples=20)
    assert Signed.of(caller) == Signed(team="search", feature="chat", tree_id="t", task_id="i", depth=2)
    assert Signed.of(caller).caller() == Caller(team="search", feature="chat", tree_id="t", task_id="i", depth=2)
