"""Whose a delivered task is: what it is told, and what is not believed."""

from __future__ import annotations

import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from celery import Celery

import llmguard
from llmguard.core.call import Caller
from llmguard.core.signed import HEADER, Signed, Signer
from llmguard.core.signed import task as bound_to
from llmguard.guard import Guard
from llmguard.integrations.celery import llm_task
from llmguard.runtime.context import current
from llmguard.runtime.ids import now_ms
from tests.support.celery_mail import Mail

OTHER_KEY = b"signing-9Zz0XcVb8NmQw7ErTy6UiOp5AsDf4GhJk3LqWe2R"


@pytest.fixture
def seen() -> list[Caller]:
    return []


@pytest.fixture
def undecorated(app: Celery, seen: list[Caller]) -> Any:
    @app.task
    def task() -> None:
        seen.append(current())

    return task


@pytest.fixture
def decorated(app: Celery, seen: list[Caller]) -> Any:
    @app.task
    @llm_task(team="growth", feature="summaries")
    def task() -> None:
        seen.append(current())

    return task


def names(caller: Caller) -> tuple[str | None, str | None, str | None]:
    return caller.team, caller.env, caller.feature


def test_a_task_of_nobody(undecorated: Any, mail: Mail, seen: list[Caller]) -> None:
    result = undecorated.delay()
    mail.run_all()
    (caller,) = seen
    assert names(caller) == (None, None, None)
    assert (caller.task_id, caller.tree_id, caller.depth) == (result.id, result.id, 0)


def test_the_policy_is_the_weakest(decorated: Any, mail: Mail, seen: list[Caller]) -> None:
    decorated.delay()
    with llmguard.context(team="web", env="prod"):
        decorated.delay()
    mail.run_all()
    assert [names(caller) for caller in seen] == [("growth", None, "summaries"), ("web", "prod", "summaries")]


def test_a_context_around_the_worker_is_weaker_than_the_header(
    undecorated: Any, mail: Mail, seen: list[Caller]
) -> None:
    with llmguard.context(team="web"):
        undecorated.delay()
    undecorated.delay()
    with llmguard.context(team="around"):
        mail.run_all()
    assert [caller.team for caller in seen] == ["web", "around"]


def test_eager_tasks_are_children_of_their_caller(app: Celery, undecorated: Any, seen: list[Caller]) -> None:
    @app.task
    def parent() -> None:
        with llmguard.context(feature="inner"):
            undecorated.apply()

    with llmguard.context(team="web"):
        result = parent.apply()
    (caller,) = seen
    assert names(caller) == ("web", None, "inner")
    assert (caller.tree_id, caller.depth) == (result.id, 1)


def test_an_eager_link_belongs_to_what_it_follows(app: Celery, seen: list[Caller]) -> None:
    app.conf.task_always_eager = True

    @app.task
    def after(_: Any) -> None:
        seen.append(current())

    @app.task
    @llm_task(team="growth")
    def first() -> None: ...

    result = first.apply_async(link=after.s())
    (caller,) = seen
    assert (caller.team, caller.tree_id, caller.depth) == ("growth", result.id, 0)


def _forged(text: str) -> str:
    version, payload, mac = text.split(".")
    content = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    content[content.index("web")] = "finance"
    return ".".join((version, urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("="), mac))


def _with_header(message: Any, header: Any) -> Any:
    message.headers[HEADER] = header
    return message


def rejected(guard: Guard) -> list[tuple[str, str]]:
    """What the audit trail says of contexts that were not believed: of which task, and why."""
    guard.close()
    ledger = guard.ledger()
    try:
        records = ledger.audit.tail(10)
    finally:
        ledger.close()
    return [(r.subject, json.loads(r.details)["why"]) for r in records if r.action == "context.rejected"]


def test_a_forged_header_is_refused(
    guard: Guard, decorated: Any, mail: Mail, seen: list[Caller], caplog: pytest.LogCaptureFixture
) -> None:
    with llmguard.context(team="web"):
        decorated.delay()
    (message,) = mail.take()
    mail.run(_with_header(message, _forged(message.headers[HEADER])))
    (caller,) = seen
    assert names(caller) == ("growth", None, "summaries")
    assert rejected(guard) == [(f"task {decorated.name}", "forged")]
    assert "secrets.signing" in caplog.text


@pytest.mark.parametrize("header", [{"team": "finance"}, 7, ["x"], "", "1.e30.x", "9.a.b", "ä"])
def test_nonsense_in_the_header_is_refused(decorated: Any, mail: Mail, seen: list[Caller], header: Any) -> None:
    decorated.delay()
    (message,) = mail.take()
    mail.run(_with_header(message, header))
    assert names(seen[0]) == ("growth", None, "summaries")


def test_a_header_of_another_message_is_refused(guard: Guard, decorated: Any, mail: Mail, seen: list[Caller]) -> None:
    with llmguard.context(team="finance"):
        decorated.delay()
    decorated.delay()
    first, second = mail.take()
    mail.run(_with_header(second, first.headers[HEADER]))
    assert names(seen[0]) == ("growth", None, "summaries")
    assert rejected(guard) == [(f"task {decorated.name}", "replayed")]


def test_another_key_is_told_once_and_as_what_it_is(
    undecorated: Any, mail: Mail, seen: list[Caller], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        undecorated.delay()
    signer = Signer((OTHER_KEY,))
    for message in mail.take():
        task_id = message.headers["id"]
        mail.run(_with_header(message, signer.sign(Signed(team="finance"), bound_to(task_id), now_ms())))
    assert [caller.team for caller in seen] == [None] * 3
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "secrets.signing" in errors[0]


def test_a_forged_header_is_not_signed_by_a_retry(app: Celery, mail: Mail, seen: list[Caller]) -> None:
    @app.task(bind=True, max_retries=1)
    def again(self: Any) -> None:
        seen.append(current())
        raise self.retry(countdown=0)

    again.delay()
    (message,) = mail.take()
    mail.run(_with_header(message, Signer((OTHER_KEY,)).sign(Signed(team="x"), bound_to("y"), now_ms())))
    mail.run_all()
    assert [caller.team for caller in seen] == [None, None]


def test_old_keys_are_still_read(app: Celery, guard: Guard, undecorated: Any, mail: Mail, seen: list[Caller]) -> None:
    undecorated.delay()
    (message,) = mail.take()
    (key,) = guard.secrets().signing
    text = Signer((key,)).sign(Signed(team="web"), bound_to(message.headers["id"]), now_ms())
    app.llmguard.signer = Signer((OTHER_KEY, key))
    mail.run(_with_header(message, text))
    assert seen[0].team == "web"
