"""Every application that the page about ASGI shows is run, with its lifespan, and does what the page says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import llmguard
from llmguard.guard import Guard
from llmguard.testing import FakeProvider

PAGE = (Path(__file__).parents[3] / "docs" / "web-apps.md").read_text()
MOUNTED, LAYERS, MIDDLEWARE, CONTEXT, FASTAPI = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
CALL = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    """A provider in the place of OpenAI, and a directory with a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmguard.guard._chosen", {})
    with FakeProvider() as running:
        openai = {"dialect": "openai", "base_url": f"{running.url}/v1", "keys": ["k"], "internal": True}
        config = {
            "providers": {"openai": openai | {"default": True}},
            "prices": {"openai/*": {"input": "$1/M", "output": "$1/M"}},
            "budgets": [{"name": "daily", "scope": {"team": "search"}, "limit": "$5", "window": "day"}],
            "cache": {"exact": {"ttl": "1h"}},
            "audit": {"payloads": "redacted"},
            "ledger": f"sqlite:///{tmp_path / 'ledger.db'}",
            "spool": {"path": str(tmp_path / "spool")},
        }
        Path("llmguard.yaml").write_text(json.dumps(config))
        Path("llmguard.yaml").chmod(0o600)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{running.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-application")
        yield running
        llmguard.uninstrument()


@contextmanager
def serving(block: str, provider: FakeProvider) -> Iterator[tuple[TestClient, dict[str, Any]]]:
    """The application of a block, between its start and its end."""
    names: dict[str, Any] = {"__name__": "shown"}
    exec(block.replace("https://api.openai.com", provider.url), names)
    with TestClient(names["app"]) as client:
        yield client, names
        if "client" in names:
            assert client.portal is not None
            client.portal.call(names["client"].aclose)


def key_for(guard: Guard) -> dict[str, str]:
    ledger = guard.ledger()
    _, text = ledger.keys.create("search", "prod", "chat")
    ledger.close()
    return {"authorization": f"Bearer {text}"}


def test_the_mounted_gateway(provider: FakeProvider) -> None:
    with serving(MOUNTED, provider) as (client, names):
        assert client.post("/llm/v1/chat/completions", json=CALL).status_code == 401
        reply = client.post("/llm/v1/chat/completions", json=CALL, headers=key_for(names["guard"]))
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-llmguard-target"] == "openai/gpt-4o-mini"


def test_the_layers(provider: FakeProvider) -> None:
    with serving(LAYERS, provider) as (client, names):
        assert client.post("/v1/chat/completions", json=CALL).status_code == 401
        key = key_for(names["guard"])
        replies = [client.post("/v1/chat/completions", json=CALL, headers=key) for _ in range(2)]
        streamed = client.post("/v1/chat/completions", json=CALL | {"stream": True}, headers=key)
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()
    assert [reply.headers["x-llmguard-cache"].partition(";")[0] for reply in replies] == ["miss", "hit"]
    assert streamed.text.rstrip().endswith("data: [DONE]")
    assert len(provider.requests) == 2


def test_layers_as_middleware_of_an_application(provider: FakeProvider) -> None:
    with serving(MIDDLEWARE, provider) as (client, _):
        assert client.get("/stats").json() == {"page": "stats"}
        refused = client.post("/v1/chat/completions", json=CALL, headers={"origin": "https://shop.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


def test_the_context_of_a_request(provider: FakeProvider) -> None:
    with serving(CONTEXT, provider) as (client, _):
        assert client.get("/nowhere").status_code == 404


def test_the_fastapi_application(provider: FakeProvider) -> None:
    provider.reply("Fine.", usage=(1_000, 100))
    with serving(FASTAPI, provider) as (client, _):
        assert client.get("/budget").json() == {"daily": 5.0}
        assert client.post("/ask?question=how", headers={"x-user": "ann"}).json() == "Fine."
        assert client.get("/budget").json() == {"daily": 4.9989}
