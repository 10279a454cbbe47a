"""Keys as a process knows them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.call import Principal
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import Ledger
from llmguard.runtime import keyring as module
from llmguard.runtime.keyring import Keyring
from tests.support.ledger import PEPPER


class World:
    """A ledger with keys, a keyring before it, and the time that both go by."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_790_000_000_000
        self.ledger = Ledger(f"sqlite:///{path}", pepper=PEPPER)
        self.ledger.make_ready()
        self.keys = self.ledger.keys
        monkeypatch.setattr(self.keys, "_clock", lambda: self.now)
        monkeypatch.setattr(module, "now_ms", lambda: self.now)
        self.lookups = 0
        plain = self.keys.lookup

        def counted(text: str) -> Any:
            self.lookups += 1
            return plain(text)

        monkeypatch.setattr(self.keys, "lookup", counted)
        self.keyring = Keyring(self.keys)

    def create(self, **options: Any) -> tuple[str, str]:
        key, text = self.keys.create("search", "prod", "chat", **options)
        return key.id, text

    def verify(self, text: str) -> Any:
        async def run() -> Any:
            verdict = self.keyring.verify(text)
            return await verdict if isinstance(verdict, Awaitable) else verdict

        return asyncio.run(run())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "ledger.db", monkeypatch)
    yield made
    made.ledger.close()


def test_a_good_key_is_looked_up_once_and_then_answered_at_once(world: World) -> None:
    key_id, text = world.create(budget="$5/day")
    principal = world.verify(text)
    assert principal == Principal(key_id, key_id, "search", "prod", "chat", "default", "$5/day")
    assert world.keyring.verify(text) is world.keyring.verify(text)
    assert world.lookups == 1


@pytest.mark.parametrize(
    "text", ["", "x", "sk-abc", "lg_prod_x_y", "Bearer", "lg_" + "x" * 10_000, "\ud800", "lg_\x00"]
)
def test_what_cannot_be_a_key_is_unknown_without_a_look_up(world: World, text: str) -> None:
    assert world.keyring.verify(text) == "unknown"
    assert world.lookups == 0


def test_a_key_of_another_ledger_is_unknown_and_not_asked_for_again_at_once(world: World, tmp_path: Path) -> None:
    other = Ledger(f"sqlite:///{tmp_path / 'other.db'}", pepper=PEPPER)
    other.make_ready()
    _, text = other.keys.create("search", "prod", "chat")
    other.close()
    assert [world.verify(text) for _ in range(3)] == ["unknown"] * 3
    assert world.lookups == 1
    world.now += 10_000
    assert world.verify(text) == "unknown"
    assert world.lookups == 2


def test_a_revoked_key_is_refused_from_the_next_refresh_on(world: World) -> None:
    key_id, text = world.create()
    world.keyring.refresh()
    assert isinstance(world.verify(text), Principal)
    world.keys.revoke(key_id)
    assert isinstance(world.verify(text), Principal)
    world.keyring.refresh()
    assert world.verify(text) == "revoked"


def test_a_refresh_forgets_only_what_changed(world: World) -> None:
    changed, one = world.create()
    _, other = world.create()
    world.keyring.refresh()
    for text in (one, other):
        world.verify(text)
    world.keys.rotate(changed)
    world.keyring.refresh()
    assert world.lookups == 2
    assert isinstance(world.keyring.verify(other), Principal)
    assert isinstance(world.verify(one), Principal)
    assert world.lookups == 3


def test_both_secrets_of_a_rotated_key_are_good_until_the_grace_ends(world: World) -> None:
    key_id, old = world.create()
    _, new = world.keys.rotate(key_id, grace_ms=60_000)
    assert isinstance(world.verify(old), Principal)
    assert isinstance(world.verify(new), Principal)
    world.now += 60_000
    assert world.verify(old) == "expired"
    assert isinstance(world.verify(new), Principal)


def test_a_key_that_expires_is_good_until_that_moment(world: World) -> None:
    _, text = world.create(expires_at=world.now + 1_000)
    assert isinstance(world.verify(text), Principal)
    world.now += 999
    assert isinstance(world.keyring.verify(text), Principal)
    world.now += 1
    assert world.verify(text) == "expired"


def test_an_answer_that_a_change_overtook_is_not_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up reads the key, then the key is revoked and the refresh runs, then the look-up returns."""
    key_id, text = world.create()
    world.keyring.refresh()
    read, go_on = threading.Event(), threading.Event()
    plain = world.keys.lookup

    def slow(text: str) -> Any:
        found = plain(text)
        read.set()
        assert go_on.wait(5)
        return found

    monkeypatch.setattr(world.keys, "lookup", slow)

    async def run() -> Any:
        verdict = asyncio.ensure_future(world.keyring.verify(text))  # type: ignore[arg-type]
        assert await asyncio.to_thread(read.wait, 5)
        world.keys.revoke(key_id)
        world.keyring.refresh()
        go_on.set()
        return await verdict

    assert isinstance(asyncio.run(run()), Principal)
    assert world.verify(text) == "revoked"


def test_a_ledger_that_is_away_is_no_verdict_and_known_keys_stay_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, known = world.create()
    _, new = world.create()
    world.verify(known)

    def away(*_: Any) -> Any:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(world.keys, "lookup", away)
    monkeypatch.setattr(world.keys, "changes_since", away)
    with pytest.raises(LedgerUnavailable):
        world.verify(new)
    with pytest.raises(LedgerUnavailable):
        world.keyring.refresh()
    assert isinstance(world.keyring.verify(known), Principal)


def test_keys_are_not_kept_as_text(world: World) -> None:
    _, text = world.create()
    world.verify(text)
    kept = repr(vars(world.keyring))
    assert text not in kept
    assert text.rpartition("_")[2] not in kept


def test_the_oldest_are_forgotten_when_there_are_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBER", 2)
    texts = [world.create()[1] for _ in range(3)]
    for text in texts:
        world.verify(text)
    assert world.lookups == 3
    world.verify(texts[1])
    world.verify(texts[2])
    assert world.lookups == 3
    world.verify(texts[0])
    assert world.lookups == 4
