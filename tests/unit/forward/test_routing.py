"""Which provider a model name leads to."""

from __future__ import annotations

import pytest

from llmguard.core.call import Call
from llmguard.core.decision import Refuse, Target
from llmguard.forward.routing import Provider, Routing

ROUTING = Routing(
    {
        "openai": Provider("openai", default=True),
        "local": Provider("openai", fee_nano=10_000_000),
        "claude": Provider("anthropic"),
        "sandbox": Provider("sandbox"),
    },
    {"smart": ("local", "llama"), "wise": ("claude", "opus")},
)


def target(model: str, family: str = "openai", upstream: str | None = None) -> tuple[str, str, int | None] | str:
    call = Call("d", family, "/e", "POST", "/e", "", {}, b"", model)
    call.upstream = upstream
    found = ROUTING.target(call)
    if isinstance(found, Refuse):
        return found.code
    assert isinstance(found, Target)
    return found.provider, found.model, found.fee_nano


@pytest.mark.parametrize(
    ("model", "family", "expected"),
    [
        ("gpt-4o", "openai", ("openai", "gpt-4o", None)),
        ("local/gpt-4o", "openai", ("local", "gpt-4o", 10_000_000)),
        ("smart", "openai", ("local", "llama", 10_000_000)),
        ("meta-llama/Llama-4", "openai", ("openai", "meta-llama/Llama-4", None)),
        ("claude-sonnet", "anthropic", ("claude", "claude-sonnet", None)),
        ("sandbox/echo", "gemini", ("sandbox", "echo", None)),
        ("", "openai", ("openai", "", None)),
        ("", "gemini", ("sandbox", "", None)),
        ("gemini-3-pro", "gemini", "unknown_model"),
        ("claude/opus", "openai", "wrong_dialect"),
        ("wise", "openai", "wrong_dialect"),
    ],
)
def test_names(model: str, family: str, expected: object) -> None:
    assert target(model, family) == expected


def test_a_path_that_names_the_provider_leaves_the_model_alone() -> None:
    assert target("openai/gpt-oss", upstream="local") == ("local", "openai/gpt-oss", 10_000_000)


def test_two_of_a_family_without_a_mark_are_nobodys_default() -> None:
    routing = Routing({"a": Provider("openai"), "b": Provider("openai")}, {})
    found = routing.target(Call("d", "openai", "/e", "POST", "/e", "", {}, b"", "m"))
    assert isinstance(found, Refuse)
