"""What must never come out of the cache: a part of a reply, or the answer to another call than the one asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.cache import digest, directives
from llmguard.core.call import Attribution, Call
from llmguard.core.decision import Target
from llmguard.forward.upstreams import HOLD_UP_TO
from llmguard.integrations.httpx import http_client
from tests.support.inside import Inside, inside
from tests.support.upstream import Answer, answer

BUDGETS = [
    {"name": "all", "scope": {"team": "*"}, "limit": "$100", "window": "total"},
    {"name": "poor", "scope": {"team": "poor"}, "limit": "$0.000001", "window": "total"},
]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Inside]:
    with inside(tmp_path, cache={"exact": {"ttl": "1h"}}, budgets=BUDGETS) as found:
        yield found


def vectors() -> Answer:
    """A whole reply that is too large to hold but not too large to keep."""
    data = [{"object": "embedding", "index": 0, "embedding": [0.125] * (HOLD_UP_TO // 5)}]
    usage = {"prompt_tokens": 10, "total_tokens": 10}
    return answer(json_body={"object": "list", "data": data, "model": "m", "usage": usage})


def test_a_reply_too_large_to_hold_comes_again_whole_or_from_the_provider(world: Inside) -> None:
    world.provider.reply(vectors())
    whole = vectors().pieces[0]
    assert len(whole) > HOLD_UP_TO
    with http_client(guard=world.guard, team="search") as client:
        for _ in range(3):
            reply = client.post(f"{world.provider.origin}/v1/embeddings", json={"model": "m", "input": "x"})
            assert reply.content == whole
    world.rows(3)


def test_an_age_beyond_all_numbers_asks_for_none(world: Inside) -> None:
    assert directives({"cache-control": f"max-age={'9' * 5_000}"}).max_age_ms is None
    with http_client(guard=world.guard, team="search") as client:
        headers = {"cache-control": f"max-age={'9' * 5_000}"}
        assert client.post(f"{world.provider.origin}/v1/chat/completions", json=CHAT, headers=headers).is_success


@pytest.mark.parametrize(
    ("team", "wanted"), [("search", [(200, "miss"), (200, "hit; age=0")]), ("poor", [(403, None), (403, None)])]
)
def test_what_the_guard_answers_itself_can_be_streamed_raw(world: Inside, team: str, wanted: Any) -> None:
    """Whoever reads a stream's bytes as they come does not notice that nobody sent them."""
    url, told = f"{world.provider.origin}/v1/chat/completions", []
    with http_client(guard=world.guard, team=team) as client:
        for _ in range(2):
            with client.stream("POST", url, json=CHAT | {"stream": True}) as reply:
                assert b"".join(reply.iter_raw())
            told.append((reply.status_code, reply.headers.get("x-llmguard-cache")))
            time.sleep(0.1)  # replies are kept just after they were sent
    assert told == wanted


def call(doc: dict[str, Any], **fields: Any) -> Call:
    given: dict[str, Any] = {
        "dialect": "openai_chat",
        "family": "openai",
        "endpoint": "/openai/deployments/{deployment}/chat/completions",
        "method": "POST",
        "path": "/openai/deployments/d/chat/completions",
        "query": "",
        "headers": {},
        "body": json.dumps(doc).encode(),
        "model": "d",
        "doc": doc,
    }
    return Call(**(given | fields))


def name_of(one: Call) -> bytes:
    return digest(one, Attribution(team="search"), Target("azure", "d"))


def test_a_schema_with_its_members_in_another_order_is_another_question() -> None:
    """Providers write structured output in the order of the schema, and tools in the order of their parameters."""
    first = {"properties": {"reasoning": {"type": "string"}, "verdict": {"type": "boolean"}}}
    second = {"properties": {"verdict": {"type": "boolean"}, "reasoning": {"type": "string"}}}
    names = {name_of(call(CHAT | {"response_format": {"json_schema": {"schema": s}}})) for s in (first, second)}
    assert len(names) == 2


@pytest.mark.parametrize("path", ["/v1beta/models/d:generateContent", "/v1alpha/models/d:generateContent"])
def test_another_version_of_an_api_gives_another_answer(path: str) -> None:
    assert name_of(call(CHAT, path=path)) != name_of(call(CHAT))


def test_customers_of_one_provider_with_hosts_of_their_own_are_told_apart() -> None:
    """Two Azure resources may give one deployment name to two models."""
    names = {name_of(call(CHAT, origin=f"{host}.openai.azure.com")) for host in ("one", "other")}
    assert len(names) == 2
