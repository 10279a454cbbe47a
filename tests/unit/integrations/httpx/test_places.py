"""Which URL belongs to which provider."""

from __future__ import annotations

import httpx2
import pytest

from llmguard.config import load
from llmguard.integrations.httpx.places import GATEWAY, Places

CONFIG = {
    "providers": {
        "local": {"dialect": "openai", "base_url": "http://127.0.0.1:9000/v1", "keys": ["x"], "internal": True},
        "deepseek": {"dialect": "openai", "base_url": "https://api.deepseek.com", "keys": ["x"]},
        "deepseek-messages": {"dialect": "anthropic", "base_url": "https://api.deepseek.com/anthropic", "keys": ["x"]},
        "openai": {"dialect": "openai", "base_url": "https://eu.api.openai.com/v1", "keys": ["x"], "default": True},
    },
}


@pytest.fixture(scope="module")
def places() -> Places:
    return Places(load(CONFIG, {}).reachable, "https://llm.corp.example")


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("http://127.0.0.1:9000/v1/chat/completions", ["local"]),
        ("http://127.0.0.1:9001/v1/chat/completions", []),
        ("https://127.0.0.1:9000/v1/chat/completions", []),
        ("https://api.deepseek.com/chat/completions", ["deepseek"]),
        ("https://api.deepseek.com:443/chat/completions", ["deepseek"]),
        ("https://api.deepseek.com./chat/completions", ["deepseek"]),
        ("https://api.deepseek.com/anthropic/v1/messages", ["deepseek-messages", "deepseek"]),
        ("https://api.deepseek.com/anthropics", ["deepseek"]),
        ("https://eu.api.openai.com/v1/responses", ["openai"]),
        ("https://api.openai.com/v1/responses", ["openai-direct"]),
        ("https://api.anthropic.com/v1/messages", ["anthropic"]),
        ("https://generativelanguage.googleapis.com/v1beta/models/m:generateContent", ["gemini"]),
        ("https://mine.openai.azure.com/openai/deployments/d/chat/completions", ["azure"]),
        ("https://europe-west1-aiplatform.googleapis.com/v1/projects", ["vertex"]),
        ("https://aiplatform.googleapis.com/v1/projects", ["vertex"]),
        ("http://mine.openai.azure.com/openai/deployments", []),
        ("https://example.com/v1/chat/completions", []),
    ],
)
def test_an_origin_and_a_base_path_are_a_provider(places: Places, url: str, names: list[str]) -> None:
    assert [place.provider for place in places.find(httpx2.URL(url))] == names


def test_our_own_gateway_is_known_by_its_origin(places: Places) -> None:
    assert list(places.find(httpx2.URL("https://llm.corp.example/v1/chat/completions"))) == [GATEWAY]
    assert "https://llm.corp.example:443 (our gateway: signed only)" in places.words
    assert "https://*.openai.azure.com (azure)" in places.words
