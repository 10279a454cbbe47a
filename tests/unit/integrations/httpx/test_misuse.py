"""What somebody is told at once who makes a client, a transport or a scope wrongly."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

import llmguard
from llmguard.core.rules import DIMENSIONS
from llmguard.errors import ConfigError
from llmguard.integrations.httpx import async_http_client, http_client, instrument
from llmguard.integrations.httpx.transports import async_transport, transport
from llmguard.runtime.remaining import remaining


@pytest.mark.parametrize("words", [{"team": 5}, {"team": ""}, {"feature": "\x1b[2J"}, {"end_user": "x" * 129}])
def test_what_is_no_name_is_said_when_the_client_is_made(words: dict[str, Any]) -> None:
    makers: list[Any] = [
        http_client,
        async_http_client,
        llmguard.context,
        lambda **given: transport(httpx2.HTTPTransport(), **given),
        lambda **given: async_transport(httpx2.AsyncHTTPTransport(), **given),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="write 1 to 128 printable characters"):
            make(**words)


@pytest.mark.parametrize("guard", ["llmguard.yaml", {"providers": {}}, 5])
def test_a_path_or_a_mapping_is_no_guard(guard: Any) -> None:
    makers: list[Any] = [http_client, async_http_client, instrument]
    for make in makers:
        with pytest.raises(ConfigError, match=r"write guard=llmguard\.Guard\("):
            make(guard=guard)
    with pytest.raises(ConfigError, match="no guard"):
        transport(httpx2.HTTPTransport(), guard=guard)


def test_another_library_is_none_of_the_two() -> None:
    with pytest.raises(ValueError, match="write one of httpx2, httpx"):
        http_client(module="requests")  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [0, "3", 2.5, True])
def test_samples_are_a_whole_number(samples: Any) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        llmguard.context(samples=samples)


@pytest.mark.parametrize("scope", [{"tem": "search"}, {"team": 5}])
def test_a_scope_that_nobody_can_have_has_no_budgets_but_an_explanation(scope: Any) -> None:
    with pytest.raises(ValueError, match=", ".join(DIMENSIONS)):
        remaining(None, [], scope, 0)  # type: ignore[arg-type]
