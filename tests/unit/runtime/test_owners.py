"""Who owns an object at a provider."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable
from typing import Any

import pytest

from llmguard.core.call import ObjectRef
from llmguard.core.effects import Owners
from llmguard.core.records import SettleRecord
from llmguard.errors import LedgerUnavailable
from llmguard.runtime import owners as module
from llmguard.runtime.owners import ObjectOwners
from tests.support.ledger import entry

MINE = ObjectRef("response", "resp_1")
THEIRS = ObjectRef("file", "file-2")


class Ledger:
    """Answers each look-up with the next of its answers, the last one for ever."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def lookup(self, provider: str, ref: ObjectRef) -> str | None:
        self.asked.append(ref.id)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0)


def ask(owners: ObjectOwners, *refs: ObjectRef) -> Any:
    async def run() -> list[str | None]:
        found = owners.find(Owners("openai", refs))
        return await found if isinstance(found, Awaitable) else found

    return asyncio.run(run())


def made(*objects: tuple[str, str], deleted: Iterable[tuple[str, str]] = ()) -> SettleRecord:
    return SettleRecord(entry(random.Random(1)), (), tuple(objects), tuple(deleted))


def test_what_this_process_saw_made_is_known_without_a_look_up() -> None:
    ledger = Ledger(None)
    owners = ObjectOwners(ledger.lookup)
    owners.note(made(("response", "resp_1")))
    assert owners.find(Owners("openai", (MINE,))) == ["default/search"]
    assert ledger.asked == []


def test_another_providers_object_of_the_same_id_is_another_object() -> None:
    owners = ObjectOwners(Ledger(None).lookup)
    owners.note(made(("response", "resp_1")))
    other = owners.find(Owners("azure", (MINE,)))
    assert isinstance(other, Awaitable)
    other.close()  # type: ignore[attr-defined]


def test_what_the_ledger_says_is_remembered() -> None:
    ledger = Ledger("default/ads")
    owners = ObjectOwners(ledger.lookup)
    assert ask(owners, MINE, THEIRS) == ["default/ads", "default/ads"]
    assert ask(owners, MINE, THEIRS) == ["default/ads", "default/ads"]
    assert ledger.asked == ["resp_1", "file-2"]


def test_an_object_that_another_process_made_a_moment_ago_is_waited_for() -> None:
    ledger = Ledger(None, None, None, "default/search")
    assert ask(ObjectOwners(ledger.lookup), MINE) == ["default/search"]
    assert len(ledger.asked) == 4


def test_an_object_that_does_not_come_is_nobodys_and_asked_for_again_next_time() -> None:
    ledger = Ledger(None)
    owners = ObjectOwners(ledger.lookup)
    assert ask(owners, MINE) == [None]
    assert ask(owners, MINE) == [None]
    assert len(ledger.asked) == 10


def test_a_deleted_object_is_forgotten() -> None:
    ledger = Ledger(None)
    owners = ObjectOwners(ledger.lookup)
    owners.note(made(("response", "resp_1")))
    owners.note(made(deleted=[("response", "resp_1")]))
    assert ask(owners, MINE) == [None]


def test_a_ledger_that_is_away_is_said_so() -> None:
    def away(provider: str, ref: ObjectRef) -> str | None:
        raise LedgerUnavailable("away")

    with pytest.raises(LedgerUnavailable):
        ask(ObjectOwners(away), MINE)


def test_the_oldest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBER", 2)
    owners = ObjectOwners(Ledger("x/y").lookup)
    owners.note(made(("file", "1"), ("file", "2"), ("file", "3")))
    known = [isinstance(owners.find(Owners("openai", (ObjectRef("file", i),))), list) for i in ("2", "3")]
    assert known == [True, True]
    assert ask(owners, ObjectRef("file", "1")) == ["x/y"]
