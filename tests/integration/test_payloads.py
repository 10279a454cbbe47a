"""Prompts and replies are kept only where that is asked for: capped, redacted, off the call's path, for a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from llmguard.guard import Guard
from llmguard.integrations.httpx import http_client
from llmguard.ledger import Payload
from llmguard.runtime.upkeep import finish
from llmguard.stages.audit import Audit
from llmguard.testing import Clock, FakeProvider
from tests.support.gateway import gateway

KEY = "sk-" + "proj-abcdefghijklmnop1234"


def ask(text: str, *, stream: bool = False) -> str:
    """Make a call; its request id."""
    with openai.OpenAI(http_client=http_client(team="search"), max_retries=0) as client:
        raw = client.chat.completions.with_raw_response
        words: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "stream": stream}
        response = raw.create(**words)
        if stream:
            list(response.parse())
        return str(response.headers["x-llmguard-request-id"])


def kept(guard: Guard) -> list[Payload]:
    """All payloads, once those that wait are written."""
    guard.close()
    ledger = guard.ledger()
    with ledger.engine.connect() as connection:
        ids = list(connection.scalars(sa.text("SELECT event_id FROM llmguard_payloads ORDER BY event_id")))
    found = [ledger.payloads.read(event_id, "test") for event_id in ids]
    ledger.close()
    return [payload for payload in found if payload is not None]


def test_nothing_is_kept_unless_asked_for(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    assert not any(isinstance(stage, Audit) for stage in llmguard_guard.stages("p"))
    ask("hello")
    assert kept(llmguard_guard) == []


@pytest.mark.llmguard({"audit": {"payloads": "redacted", "redact": [r"EMP-\d{6}"]}})
def test_prompt_and_reply_are_kept_redacted(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    llmguard_provider.reply(f"I will write to jo@mail.example.com with {KEY} now")
    first = ask("I am EMP-123456, card 4111 1111 1111 1111")
    second = ask("again", stream=True)
    whole, streamed = kept(llmguard_guard)
    assert (whole.event_id, whole.org, whole.team, whole.redacted) == (first, "default", "search", True)
    assert '"content": "I am ***, card ***"' in whole.prompt
    assert '"content": "I will write to *** with sk-*** now"' in whole.reply
    assert (streamed.event_id, streamed.reply) == (second, "I will write to *** with sk-*** now")
    assert streamed.reply_bytes > 500
    assert KEY not in repr([whole, streamed])


@pytest.mark.llmguard({"audit": {"payloads": "full", "max_bytes": "1KiB"}})
def test_full_is_whole_up_to_the_cap(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    llmguard_provider.reply("jo@mail.example.com")
    ask("ü" * 3_000)
    (payload,) = kept(llmguard_guard)
    assert "jo@mail.example.com" in payload.reply
    assert 1020 <= len(payload.prompt.encode()) <= 1024
    assert not payload.redacted
    assert payload.prompt_bytes > 6_000


@pytest.mark.llmguard({"audit": {"payloads": "redacted", "max_bytes": "1KiB"}})
def test_a_secret_that_the_cap_cuts_in_two_is_not_kept(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    begins = 1024 - len('{"messages": [{"role": "user", "content": "') - 12
    ask("x" * begins + " " + KEY)
    (payload,) = kept(llmguard_guard)
    assert "proj" not in payload.prompt


@pytest.mark.llmguard({"audit": {"payloads": "full"}})
def test_refused_calls_leave_nothing_and_failed_ones_do(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    llmguard_provider.reply(status=500)
    with pytest.raises(openai.InternalServerError):
        ask("fails")
    llmguard_guard.change_budgets(lambda rule: None)
    (payload,) = kept(llmguard_guard)
    assert "server_error" in payload.reply


@pytest.mark.llmguard({"audit": {"payloads": "full"}})
def test_a_call_does_not_wait_for_its_payload(
    llmguard_guard: Guard, llmguard_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger takes for ever, the call does not notice; its cleaning is another thread's, too."""
    going, names = threading.Event(), []
    add: Callable[..., None] = type(llmguard_guard.ledger().payloads).add

    def slow(self: Any, payload: Payload) -> None:
        names.append(threading.current_thread().name)
        assert going.wait(10)
        add(self, payload)

    monkeypatch.setattr("llmguard.ledger.payloads.Payloads.add", slow)
    begun = time.monotonic()
    ask("one")
    ask("two")
    assert time.monotonic() - begun < 9
    going.set()
    assert len(kept(llmguard_guard)) == 2
    assert set(names) == {"llmguard-payloads"}


@pytest.mark.llmguard({"audit": {"payloads": "full"}})
def test_without_the_table_calls_go_on(
    llmguard_guard: Guard, llmguard_provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    ask("one")
    service = llmguard_guard.process()
    assert service.notices.stop()
    ledger = llmguard_guard.ledger()
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE llmguard_payloads RENAME TO away"))
    llmguard_guard.close()
    ask("two")
    llmguard_guard.close()
    assert "was not kept" in caplog.text
    ledger.close()


@pytest.mark.llmguard({"audit": {"payloads": "full", "keep": "1d"}})
def test_old_payloads_are_deleted(
    llmguard_guard: Guard, llmguard_provider: FakeProvider, llmguard_clock: Clock
) -> None:
    ask("old")
    service = llmguard_guard.process()
    assert service.notices.stop()
    for passed, left in (("23h", 1), ("2h", 0)):
        llmguard_clock.advance(passed)
        finish(service.forget())
        assert number(llmguard_guard) == left


def number(guard: Guard) -> int:
    ledger = guard.ledger()
    with ledger.engine.connect() as connection:
        count = connection.scalar(sa.text("SELECT count(*) FROM llmguard_payloads"))
    ledger.close()
    return int(count or 0)


def test_a_gateway_keeps_what_its_callers_say(tmp_path: Path) -> None:
    config = {"providers": {"sandbox": {"dialect": "sandbox"}}, "audit": {"payloads": "redacted"}}
    with gateway(tmp_path, config) as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key(), max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "mail jo@mail.example.com"}]
            raw = client.chat.completions.with_raw_response.create(model="sandbox/echo", messages=messages)
        assert served.stop() == 0
        shown = json.loads(served.run("audit", "payload", raw.headers["x-llmguard-request-id"], "--json").stdout)
    assert "mail ***" in shown["prompt"]
    assert "jo@" not in shown["prompt"] + shown["reply"]
