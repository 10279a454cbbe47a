"""What a client's request is to the guard, and what goes out in its place."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest

from llmguard.config import load
from llmguard.errors import BadCall
from llmguard.integrations.httpx import asking
from llmguard.integrations.httpx.asking import Passage, find_route, on_its_way, outgoing, understand
from llmguard.integrations.httpx.libraries import library
from llmguard.integrations.httpx.places import Places
from llmguard.providers.routes import RouteTable

CONFIG = {
    "providers": {
        "deepseek": {"dialect": "openai", "base_url": "https://api.deepseek.com", "keys": ["x"]},
        "messages": {"dialect": "anthropic", "base_url": "https://api.deepseek.com/anthropic", "keys": ["x"]},
        "chat": {"dialect": "openai", "base_url": "https://one.example", "keys": ["x"], "default": True},
        "claude": {"dialect": "anthropic", "base_url": "https://one.example", "keys": ["x"], "default": True},
    },
}
REACHABLE = load(CONFIG, {}).reachable
PLACES = Places(REACHABLE)
ROUTES = RouteTable({name: provider.dialect for name, provider in REACHABLE.items()})
AZURE = "https://mine.openai.azure.com/openai/deployments/gpt-4o-eu"
VERTEX = (
    "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro"
)
GOOGLE = "https://generativelanguage.googleapis.com"


def route_of(method: str, url: str, **headers: str) -> Any:
    request = httpx2.Request(method, url)
    return find_route(ROUTES, PLACES.find(request.url), request, headers)


@pytest.mark.parametrize(
    ("url", "provider", "op", "dialect", "model"),
    [
        ("https://api.openai.com/v1/chat/completions", "openai", "generate", "openai_chat", None),
        ("https://api.openai.com/v1/responses", "openai", "generate", "openai_responses", None),
        ("https://api.openai.com/v1/images/generations", "openai", "passthrough", "unknown", None),
        ("https://api.openai.com/v1/new/endpoint", "openai", "passthrough", "unknown", None),
        ("https://api.anthropic.com/v1/messages", "anthropic", "generate", "anthropic_messages", None),
        (f"{GOOGLE}/v1beta/models/m:generateContent", "gemini", "generate", "gemini_generate", "m"),
        ("https://api.deepseek.com/chat/completions", "deepseek", "generate", "openai_chat", None),
        ("https://api.deepseek.com/anthropic/v1/messages", "messages", "generate", "anthropic_messages", None),
        ("https://one.example/v1/chat/completions", "chat", "generate", "openai_chat", None),
        ("https://one.example/v1/messages", "claude", "generate", "anthropic_messages", None),
        (f"{AZURE}/chat/completions?api-version=1", "azure", "generate", "openai_chat", "gpt-4o-eu"),
        (f"{VERTEX}:streamGenerateContent", "vertex", "generate", "gemini_generate", "gemini-2.5-pro"),
    ],
)
def test_a_post_to_a_provider_is_one_of_its_operations(
    url: str, provider: str, op: str, dialect: str, model: str | None
) -> None:
    route = route_of("POST", url)
    assert (route.upstream, route.op, route.dialect, route.model) == (provider, op, dialect, model)


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "https://api.openai.com/v1/models"),
        ("GET", "https://api.openai.com/v1/files"),
        ("GET", "https://api.openai.com/v1/new"),
        ("DELETE", "https://api.openai.com/v1/models/ft:gpt"),
        ("GET", f"{GOOGLE}/v1beta/models"),
        ("GET", "https://api.anthropic.com/v1/models"),
    ],
)
def test_what_costs_nothing_passes_as_it_is(method: str, url: str) -> None:
    assert route_of(method, url) is None


def test_objects_at_the_provider_are_the_applications_own() -> None:
    request = httpx2.Request("POST", "https://api.openai.com/v1/responses")
    body = b'{"model": "m", "input": "x", "previous_response_id": "resp_1"}'
    call, dialect = understand(request, {}, body, route_of("POST", str(request.url)))
    assert (call.reads, call.deletes, call.server_context, dialect.name) == ((), None, True, "openai_responses")


def test_a_body_that_no_dialect_understands_is_a_bad_call() -> None:
    request = httpx2.Request("POST", "https://api.openai.com/v1/responses")
    with pytest.raises(BadCall):
        understand(request, {}, b"[]", route_of("POST", str(request.url)))


def _call(request: Any) -> Any:
    return understand(request, dict(request.headers.items()), request.content, route_of("POST", str(request.url)))[0]


@pytest.mark.parametrize("module", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_an_edited_request_is_a_copy_that_says_nothing_of_us(module: Any) -> None:
    own = {"x-llmguard-feature": "chat", "authorization": "Bearer sk", "accept-encoding": "gzip"}
    url = "https://api.openai.com/v1/chat/completions"
    request = module.Request("POST", url, headers=own, json={"model": "m", "messages": []}, extensions={"timeout": 1})
    sent = outgoing(library(module.__name__), request, _call(request), b'{"edited": true}', Passage())
    assert (sent.content, sent.headers["content-length"]) == (b'{"edited": true}', "16")
    assert (sent.headers["accept-encoding"], sent.headers["authorization"]) == ("identity", "Bearer sk")
    assert "x-llmguard-feature" not in sent.headers
    assert sent.extensions["timeout"] == 1
    assert request.headers["x-llmguard-feature"] == "chat"
    assert b"messages" in request.content


def test_a_request_is_on_its_way_until_its_reply_is_there() -> None:
    request = httpx2.Request("POST", "https://api.openai.com/v1/chat/completions", json={"model": "m", "messages": []})
    passage = Passage()
    sent = outgoing(library("httpx2"), request, _call(request), request.content, passage)
    assert not asking.is_signed(sent)
    assert on_its_way(sent)
    passage.open = False
    assert not on_its_way(sent)


def test_a_signature_beside_a_key_that_counts_is_none() -> None:
    signed = {"authorization": "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=y"}
    assert asking.is_signed(httpx2.Request("POST", AZURE, headers=signed))
    for name in ("x-api-key", "api-key", "x-goog-api-key"):
        assert not asking.is_signed(httpx2.Request("POST", AZURE, headers=signed | {name: "k"}))
