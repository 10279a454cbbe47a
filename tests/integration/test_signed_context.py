"""The signed context through a running gateway: whose row a call becomes, and what becomes of one that lies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmguard.core.signed import HEADER, HTTP, HTTP_MS, Signed, Signer, task
from tests.support.gateway import Gateway, gateway

SECRETS = {
    "pepper": "a1b2c3d4e5f60718" * 4,
    "signing": ["0f1e2d3c4b5a6978" * 4, "9f8e7d6c5b4a3928" * 4],
    "cache": ["1928374655a47382" * 4],
}
NEW, OLD = (Signer((secret.encode(),)) for secret in SECRETS["signing"])
CONTEXT = Signed(
    "default", "growth", "prod", "digest", "ann", "tree-1", "task-1", 2, "4bf92f3577b34da6a3ce929d0e0e4736"
)
NAMES = ("team", "env", "feature", "end_user", "task_id", "tree_id", "trace_id")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("context"), {"providers": {"sandbox": {"dialect": "sandbox"}}, "secrets": SECRETS}
    ) as up:
        yield up


def call(served: Gateway, key: str, header: str | None, **more: str) -> dict[str, Any]:
    """Make a call and return its row."""
    headers = {"authorization": f"Bearer {key}"} | more | ({} if header is None else {HEADER: header})
    body = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hi"}]}
    reply = httpx2.post(f"{served.url}/v1/chat/completions", json=body, headers=headers, timeout=10)
    assert reply.status_code == 200, reply.text
    (row,) = served.wait_for_rows(1, event_id=reply.headers["x-llmguard-request-id"])
    return row


def now() -> int:
    return int(time.time() * 1_000)


def said(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in NAMES)


@pytest.mark.parametrize("signer", [NEW, OLD], ids=["first key", "older key"])
def test_what_is_signed_lands_in_the_row(served: Gateway, signer: Signer) -> None:
    key = served.key("*", "*", "*")
    row = call(served, key, signer.sign(CONTEXT, HTTP, now()))
    assert said(row) == ("growth", "prod", "digest", "ann", "task-1", "tree-1", CONTEXT.trace_id)


def test_a_key_of_one_team_takes_from_its_own_contexts_what_it_allows(served: Gateway) -> None:
    key = served.key("growth", "staging", "digest")
    row = call(served, key, NEW.sign(CONTEXT, HTTP, now()), **{"x-llmguard-user": "bob"})
    assert said(row) == ("growth", "staging", "digest", "bob", "task-1", "tree-1", CONTEXT.trace_id)


def test_contexts_that_mean_nothing_change_nothing_and_are_told_of(served: Gateway) -> None:
    key = served.key("search", "prod", "chat")
    lies = {
        "forged": Signer((b"somebody else's",)).sign(CONTEXT, HTTP, now()),
        "replayed": NEW.sign(CONTEXT, task("task-1"), now()),
        "expired": NEW.sign(CONTEXT, HTTP, now() - HTTP_MS - 60_000),
        "foreign": NEW.sign(CONTEXT, HTTP, now()),
    }
    before = served.metric("llmguard_contexts_rejected_total")
    for header in lies.values():
        row = call(served, key, header)
        assert said(row) == ("search", "prod", "chat", None, None, None, None)
    assert said(call(served, key, lies["forged"]))[0] == "search"
    assert served.metric("llmguard_contexts_rejected_total") == before + 5
    assert row["key_id"] is not None
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        records = json.loads(served.run("audit", "tail", "--json").stdout)
        found = [record for record in records if record["action"] == "context.rejected"]
        if len(found) >= len(lies):
            break
    assert {(record["subject"], record["details"]["why"]) for record in found} == {
        (f"key {row['key_id']}", why) for why in lies
    }


def test_a_forged_context_gets_a_key_for_any_team_nowhere(served: Gateway) -> None:
    row = call(served, served.key("*", "*", "*"), Signer((b"guessed",)).sign(CONTEXT, HTTP, now()))
    assert said(row) == ("unattributed", "unattributed", "unattributed", None, None, None, None)
