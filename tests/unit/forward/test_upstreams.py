"""Where a caller's path ends up under a provider's base URL, and whose key goes with it."""

from __future__ import annotations

import pytest

from llmguard.core.call import Call
from llmguard.core.decision import Target
from llmguard.forward.upstreams import Upstream, join_path


@pytest.mark.parametrize(
    ("base", "path", "joined"),
    [
        ("", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1", "/v1/responses", "/openai/v1/responses"),
        ("/api/paas/v4", "/v1/chat/completions", "/api/paas/v4/chat/completions"),
        ("/serving-endpoints", "/v1/chat/completions", "/serving-endpoints/chat/completions"),
        ("", "/v1beta/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("/v1beta", "/v1/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("/proxy", "/openai/deployments/d/chat/completions", "/proxy/openai/deployments/d/chat/completions"),
        ("/v1", "/models", "/v1/models"),
    ],
)
def test_versions_are_not_repeated(base: str, path: str, joined: str) -> None:
    assert join_path(base, path) == joined


def call(**headers: str) -> Call:
    names = ("anthropic_messages", "anthropic", "/v1/messages", "POST", "/v1/messages", "beta=true&key=x")
    made = Call(*names, headers, b"{}", "claude")
    made.raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    return made


def test_the_providers_key_goes_out_and_the_callers_never() -> None:
    upstream = Upstream("anthropic", "anthropic", None, "", ["sk-one", "sk-two"])  # type: ignore[arg-type]
    caller = call(
        **{"x-api-key": "lg_mine", "authorization": "Bearer lg_mine", "cookie": "a=b", "x-llmguard-user": "u"}
    )
    target = Target("anthropic", "claude")
    first = upstream.outgoing(caller, target, b"{}", lambda: None)
    second = upstream.outgoing(caller, target, b"{}", lambda: None)
    names = dict(first.headers)
    assert names[b"x-api-key"] == b"sk-one"
    assert dict(second.headers)[b"x-api-key"] == b"sk-two"
    assert names[b"anthropic-version"] == b"2023-06-01"
    assert not any(b"lg_mine" in value for _, value in first.headers)
    assert {b"cookie", b"authorization", b"x-llmguard-user"}.isdisjoint(names)
    assert first.target == b"/v1/messages?beta=true"


@pytest.mark.parametrize(
    ("path", "model", "renamed"),
    [
        ("/v1beta/models/sandbox/echo:generateContent", "sandbox/echo", "/v1beta/models/m-1:generateContent"),
        ("/v1beta/models/models:generateContent", "models", "/v1beta/models/m-1:generateContent"),
        ("/openai/deployments/chat/chat/completions", "chat", "/openai/deployments/m-1/chat/completions"),
        ("/v1/chat/completions", "chat", "/v1/chat/completions"),
        ("/v1/messages", "m", "/v1/messages"),
    ],
)
def test_a_model_is_renamed_where_the_path_carries_it_and_nowhere_else(path: str, model: str, renamed: str) -> None:
    upstream = Upstream("p", "openai", None, "", [])  # type: ignore[arg-type]
    named = Call("d", "openai", path, "POST", path, "", {}, b"{}", model)
    assert upstream.outgoing(named, Target("p", "m-1"), b"{}", lambda: None).target == renamed.encode()


def test_a_repr_shows_no_key() -> None:
    assert "sk-" not in repr(Upstream("p", "openai", None, "", ["sk-secret"]))  # type: ignore[arg-type]
