"""Entries of the cache open for their own tenant, under their own name, while their secret is configured."""

from __future__ import annotations

import random

from llmguard.core.cache import Kept
from llmguard.stores.cache.vault import Vault

OLD, NEW = b"o" * 43, b"n" * 43
KEPT = Kept("application/json", b'{"a":1}', False, 1_000, 7, "gpt-4o", "stop", 3, 4)
DIGEST = bytes(range(32))


def sealed(vault: Vault, owner: str = "default/search") -> tuple[str, bytes]:
    name = vault.names(owner, DIGEST)[0]
    return name, vault.seal(owner, name, KEPT)


def test_a_reply_comes_back_as_it_was() -> None:
    vault = Vault([NEW])
    name, blob = sealed(vault)
    assert vault.unseal("default/search", name, 0, blob) == KEPT


def test_nothing_of_it_can_be_read_and_two_seals_differ() -> None:
    vault = Vault([NEW])
    name, blob = sealed(vault)
    assert KEPT.body not in blob
    assert b"search" not in blob
    assert "search" not in name
    assert vault.seal("default/search", name, KEPT) != blob
    assert repr(vault) == "Vault(…)"


def test_an_older_secret_still_reads_and_a_dropped_one_does_not() -> None:
    name, blob = sealed(Vault([OLD]))
    rotated = Vault([NEW, OLD])
    assert rotated.names("default/search", DIGEST)[1] == name
    assert rotated.unseal("default/search", name, 1, blob) == KEPT
    assert Vault([NEW]).unseal("default/search", name, 0, blob) is None


def test_an_entry_opens_for_nobody_else_and_under_no_other_name() -> None:
    vault = Vault([NEW])
    name, blob = sealed(vault)
    assert vault.unseal("default/ads", name, 0, blob) is None
    assert vault.unseal("default/search", name + "0", 0, blob) is None
    assert vault.names("default/ads", DIGEST)[0] != name
    assert vault.tenants("default/search") == [name.partition("/")[0]]


def test_any_damage_is_a_miss() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    vault = Vault([NEW])
    name, blob = sealed(vault)
    for _ in range(200):
        at = dice.randrange(len(blob))
        damaged = dice.choice([blob[:at], blob[:at] + bytes([blob[at] ^ 1 << dice.randrange(8)]) + blob[at + 1 :]])
        assert vault.unseal("default/search", name, 0, damaged) is None
    assert vault.unseal("default/search", name, 0, b"") is None
