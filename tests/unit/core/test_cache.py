"""What the exact cache takes for the same call, and what it must never answer."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from msgspec.structs import replace

from llmguard.core.cache import CachePolicy, Directives, Kept, cacheable, digest, directives
from llmguard.core.call import Attribution, Call, ObjectRef
from llmguard.core.decision import Target

POLICY = CachePolicy(ttl_ms=3_600_000)
WHO = Attribution(team="search", env="prod", feature="chat")
TARGET = Target("openai", "gpt-4o")
DOC: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello", "name": "ann"}],
    "temperature": 0.5,
    "max_tokens": 100,
    "n": 1,
    "stop": ["end"],
    "seed": 7,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "response_format": {"type": "json_object"},
    "user": "ann",
    "metadata": {"a": "b"},
    "logit_bias": {"50256": -100},
}


def call(doc: dict[str, Any] = DOC, **fields: Any) -> Call:
    given: dict[str, Any] = {
        "dialect": "openai_chat",
        "family": "openai",
        "endpoint": "/v1/chat/completions",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query": "",
        "headers": {"content-type": "application/json"},
        "body": json.dumps(doc).encode(),
        "model": "gpt-4o",
        "doc": doc,
    }
    return Call(**(given | fields))


def test_the_order_of_keys_and_the_callers_own_headers_mean_nothing() -> None:
    turned = dict(reversed(DOC.items()))
    headers = {"user-agent": "x", "authorization": "Bearer k", "traceparent": "00-…"}
    assert digest(call(turned, headers=headers), WHO, TARGET) == digest(call(), WHO, TARGET)


def test_an_alias_and_the_model_it_stands_for_are_the_same() -> None:
    assert digest(call(DOC | {"model": "smart"}), WHO, TARGET) == digest(call(), WHO, TARGET)


def test_env_and_feature_of_a_team_share_answers() -> None:
    other = replace(WHO, env="dev", feature="mail", key_id="k2")
    assert digest(call(), other, TARGET) == digest(call(), WHO, TARGET)


@pytest.mark.parametrize(
    ("changed", "who", "target"),
    [
        (call(), replace(WHO, team="ads"), TARGET),
        (call(), replace(WHO, org="acme"), TARGET),
        (call(), WHO, Target("azure", "gpt-4o")),
        (call(), WHO, Target("openai", "gpt-4o-mini")),
        (call(stream=True), WHO, TARGET),
        (call(query="beta=true"), WHO, TARGET),
        (call(endpoint="/v1/responses"), WHO, TARGET),
        (call(dialect="openai_responses"), WHO, TARGET),
        (call(headers={"openai-beta": "x"}), WHO, TARGET),
        (call(headers={"anthropic-version": "2023-06-01"}), WHO, TARGET),
    ],
)
def test_everything_around_the_body_that_may_change_an_answer_tells_calls_apart(
    changed: Call, who: Attribution, target: Target
) -> None:
    assert digest(changed, who, target) != digest(call(), WHO, TARGET)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    inner: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inner = [place for key in value for place in paths(value[key], (*path, key))]
    elif isinstance(value, list):
        inner = [place for index, item in enumerate(value) for place in paths(item, (*path, index))]
    return [path, *inner] if path else inner


def changed_at(doc: dict[str, Any], path: tuple[Any, ...], how: str, dice: random.Random) -> dict[str, Any]:
    """A deep copy with one value changed, taken out, or with something put beside it."""
    copy: dict[str, Any] = json.loads(json.dumps(doc))
    inner: Any = copy
    for step in path[:-1]:
        inner = inner[step]
    last = path[-1]
    if how == "drop":
        del inner[last]
    elif how == "add" and isinstance(inner, dict):
        inner[f"extra{dice.randrange(1000)}"] = dice.choice([None, False, 0, "", "x", [], {}])
    else:
        old = inner[last]
        inner[last] = dice.choice([v for v in (None, True, 0, 1.5, "other", [], {}, [old], {"v": old}) if v != old])
    return copy


def test_any_change_of_a_body_tells_calls_apart() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    same = digest(call(), WHO, TARGET)
    places = [path for path in paths(DOC) if path != ("model",)]
    for path in places:
        for how in ("drop", "add", "change", "change"):
            other = changed_at(DOC, path, how, dice)
            assert json.dumps(other, sort_keys=True) != json.dumps(DOC, sort_keys=True)
            assert digest(call(other), WHO, TARGET) != same, (path, how, other)


def test_numbers_that_are_written_differently_are_not_taken_for_the_same() -> None:
    seen = {digest(call(DOC | {"n": n}), WHO, TARGET) for n in (1, 1.0, True, "1", 2**60, 2**60 + 1)}
    assert len(seen) == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "object"},
        {"op": "passthrough"},
        {"metered": False},
        {"reads": (ObjectRef("file", "file-1"),)},
        {"server_context": True},
        {"creates": "response"},
        {"web_searches": 1},
        {"file_searches": 1},
    ],
)
def test_calls_that_touch_state_at_the_provider_are_never_cached(fields: dict[str, Any]) -> None:
    assert cacheable(call(), POLICY)
    assert not cacheable(call(**fields), POLICY)
    assert not cacheable(replace(call(), doc=None), POLICY)


def test_a_policy_may_leave_out_hot_calls_and_whole_dialects() -> None:
    cool = CachePolicy(ttl_ms=1, max_temperature=0.5)
    assert cacheable(call(), cool)
    assert not cacheable(call(DOC | {"temperature": 0.6}), cool)
    assert not cacheable(call({"model": "gpt-4o", "messages": []}), cool)
    gemini = {"contents": [], "generationConfig": {"temperature": 0}}
    assert cacheable(call(gemini), cool)
    assert not cacheable(call(), CachePolicy(ttl_ms=1, dialects=frozenset({"anthropic_messages"})))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("no-store", Directives(no_store=True)),
        ("No-Cache , max-age=60", Directives(no_cache=True, max_age_ms=60_000)),
        ('max-age="5"', Directives(max_age_ms=5_000)),
        ("max-age=soon, private", Directives()),
        ("", Directives()),
    ],
)
def test_cache_control_is_read(text: str, read: Directives) -> None:
    assert directives({"cache-control": text}) == read
    assert directives({}) == Directives()


def test_a_stream_is_sent_again_event_by_event() -> None:
    kept = Kept("text/event-stream", b"data: a\n\ndata: b\n\ndata: [DONE]\n\n", True, 1_000, 5, None, None, 1, 2)
    assert kept.chunks() == [b"data: a\n\n", b"data: b\n\n", b"data: [DONE]\n\n"]
    assert (kept.age_ms(3_500), kept.age_ms(0)) == (2_500, 0)
    assert kept._replace(stream=False).chunks() == [kept.body]
