"""Whom a call is charged to: by its key and a signed context in the gateway, by its context within a process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmguard.core.call import Attribution, Call, Caller, Principal
from llmguard.core.decision import Admit, Refuse
from llmguard.core.effects import Effect, Emit, Notice
from llmguard.core.exchange import Exchange, Pipeline
from llmguard.core.notes import ContextNote
from llmguard.core.signed import HEADER, HTTP, HTTP_MS, Signed, Signer, task
from llmguard.stages.attributed import Attributed
from llmguard.stages.authn import Authn
from tests.support.script import Script

NOW = 1_800_000_000_000
SIGNER = Signer((b"signing key of the tests",))
KEY = Principal("k1", "key:k1", "search", "prod", "chat")
ANYBODY = replace(KEY, team="*", env="*", feature="*")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = Signed("default", "search", "prod", "chat/rank", "ann", "tree-1", "task-1", 3, TRACE)


def exchange(stage: Any, headers: dict[str, str], **fields: Any) -> Exchange:
    call = Call("openai_chat", "openai", "/v1", "POST", "/v1", "", headers, b"{}", "m", **fields)
    return Exchange(call, None, Pipeline((stage,)), event_id="e", secret="lg", now=NOW)  # type: ignore[arg-type]


def through_the_gateway(key: Principal, headers: dict[str, str]) -> tuple[Exchange, list[Effect]]:
    """The call after the stage, and what the stage told the operator."""
    x, world = exchange(Authn(SIGNER), headers), Script(Verify=key)
    assert isinstance(world.play(x.open(NOW)), Admit)
    return x, [effect for effect in world.seen if isinstance(effect, Emit | Notice)]


def signed(context: Signed = CONTEXT, at: int = NOW, binding: str = HTTP) -> dict[str, str]:
    return {HEADER: SIGNER.sign(context, binding, at)}


def fields(who: Attribution) -> tuple[str | None, ...]:
    return tuple(getattr(who, name) for name in Attribution.__struct_fields__)


def names(who: Attribution) -> tuple[str, str, str]:
    return who.team, who.env, who.feature


# ---------------------------------------------------------------------- the gateway


def test_a_signed_context_fills_in_what_the_key_allows() -> None:
    x, told = through_the_gateway(KEY, signed())
    assert names(x.who) == ("search", "prod", "chat/rank")
    assert (x.who.end_user, x.who.task_id, x.who.tree_id, x.who.trace_id) == ("ann", "task-1", "tree-1", TRACE)
    assert (x.who.principal, x.who.key_id) == ("key:k1", "k1")
    assert x.caller == Caller(
        "default", "search", "prod", "chat/rank", "ann", "task-1", "tree-1", TRACE, depth=3, samples=1
    )
    assert told == []


def test_a_key_for_any_team_leaves_it_to_the_context() -> None:
    x, _ = through_the_gateway(ANYBODY, signed(replace(CONTEXT, team="growth", env="dev", feature="adhoc")))
    assert names(x.who) == ("growth", "dev", "adhoc")


def test_without_a_context_such_a_key_is_charged_to_nobody_in_particular() -> None:
    x, _ = through_the_gateway(ANYBODY, {})
    assert names(x.who) == ("unattributed", "unattributed", "unattributed")
    assert x.caller is None


def test_what_a_context_leaves_out_is_the_key_s() -> None:
    x, _ = through_the_gateway(KEY, signed(Signed(tree_id="tree-1")))
    assert names(x.who) == ("search", "prod", "chat")
    assert x.who.tree_id == "tree-1"
    assert x.caller == Caller("default", "search", "prod", "chat", tree_id="tree-1")


def test_what_a_terminal_would_obey_is_no_part_of_a_name() -> None:
    """Names are shown by reports; whoever makes calls must not write to the screen of whoever reads them."""
    x, _ = through_the_gateway(ANYBODY, {"x-llmguard-user": "\x1b[2Jann\x85"})
    assert x.who.end_user == "\ufffd[2Jann\ufffd"
    x = exchange(Authn(SIGNER), {}, end_user="b\x00b\n")
    Script(Verify=ANYBODY).play(x.open(NOW))
    assert x.who.end_user == "b\ufffdb\ufffd"
    x = exchange(Authn(SIGNER), {"x-llmguard-feature": "\x1b]0;x"})
    refusal = Script(Verify=ANYBODY).play(x.open(NOW))
    assert isinstance(refusal, Refuse)
    assert refusal.code == "attribution_not_allowed"


@pytest.mark.parametrize("feature", ["billing", "chatter", "x" * 200, ""])
def test_a_feature_that_the_key_does_not_allow_is_not_taken(feature: str) -> None:
    x, told = through_the_gateway(KEY, signed(replace(CONTEXT, feature=feature, env="dev")))
    assert names(x.who) == ("search", "prod", "chat")
    assert x.who.tree_id == "tree-1"
    assert told == []


def test_headers_of_their_own_come_before_the_context() -> None:
    traceparent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    headers = {"x-llmguard-feature": "chat/x", "x-llmguard-user": "bob", "traceparent": traceparent}
    x, _ = through_the_gateway(KEY, signed() | headers)
    assert (x.who.feature, x.who.end_user, x.who.trace_id) == ("chat/x", "bob", "a" * 32)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({HEADER: "1.W10.AAAA"}, "forged"),
        ({HEADER: Signer((b"another company's",)).sign(CONTEXT, HTTP, NOW)}, "forged"),
        (signed(binding=task("task-1")), "replayed"),
        (signed(at=NOW - HTTP_MS - 1), "expired"),
        (signed(replace(CONTEXT, team="growth")), "foreign"),
        (signed(replace(CONTEXT, org="other")), "foreign"),
    ],
    ids=["garbage", "another key", "from a message", "old", "another team's", "another org's"],
)
def test_a_context_that_means_nothing_here_is_told_of_and_the_call_goes_on_under_its_key(
    headers: dict[str, str], why: str
) -> None:
    x, told = through_the_gateway(KEY, headers)
    assert names(x.who) == ("search", "prod", "chat")
    assert (x.who.task_id, x.who.tree_id, x.who.end_user, x.who.trace_id, x.caller) == (None,) * 5
    count, notice = told
    assert isinstance(count, Emit)
    assert (count.event, count.code, count.attribution) == ("context", why, x.who)
    assert isinstance(notice, Notice)
    assert notice.note == ContextNote(why, "key k1", NOW, "default", "search")


def test_a_forged_context_gives_a_key_for_any_team_no_team() -> None:
    x, _ = through_the_gateway(ANYBODY, {HEADER: Signer((b"guessed",)).sign(CONTEXT, HTTP, NOW)})
    assert names(x.who) == ("unattributed", "unattributed", "unattributed")


# ---------------------------------------------------------------------- within a process


def within(caller: Caller | None, headers: dict[str, str] | None = None, **fields: Any) -> Exchange:
    x, world = exchange(Attributed(), headers or {}, **fields), Script()
    x.caller = caller
    assert isinstance(world.play(x.open(NOW)), Admit)
    assert world.seen == []
    return x


def test_a_call_from_within_is_charged_to_its_caller_without_any_key() -> None:
    x = within(Caller("o", "search", "prod", "chat", "ann", "task-1", "tree-1", TRACE, 3))
    assert fields(x.who) == ("o", "search", "prod", "chat", "ann", None, None, "task-1", "tree-1", TRACE)


@pytest.mark.parametrize("caller", [None, Caller()])
def test_what_nobody_said_is_unattributed(caller: Caller | None) -> None:
    assert names(within(caller).who) == ("unattributed", "unattributed", "unattributed")


def test_headers_of_the_request_come_before_the_caller_and_the_body_after() -> None:
    x = within(Caller(team="search", feature="chat"), {"x-llmguard-feature": "other", "x-llmguard-user": "bob"})
    assert (x.who.feature, x.who.end_user) == ("other", "bob")
    assert within(Caller(), end_user="in the body").who.end_user == "in the body"
    assert within(Caller(end_user="ann"), end_user="in the body").who.end_user == "ann"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-llmguard-feature": "x" * 129}, "attribution_not_allowed"),
        ({"x-llmguard-metadata": "{"}, "invalid_metadata"),
    ],
)
def test_headers_that_say_nothing_right_are_refused(headers: dict[str, str], code: str) -> None:
    refusal = Script().play(exchange(Attributed(), headers).open(NOW))
    assert isinstance(refusal, Refuse)
    assert refusal.code == code


# ---------------------------------------------------------------------- calls with the same head


def again(x: Exchange, key: Principal, **fields: Any) -> Exchange:
    """Another call with the head of ``x``."""
    following = exchange(x.stages.opening[0], dict(x.call.headers), **fields)
    following.call.memo = x.call.memo
    assert isinstance(Script(Verify=key).play(following.open(NOW)), Admit)
    return following


def test_what_a_head_says_is_worked_out_once_and_the_body_names_its_own_user() -> None:
    headers = {"x-llmguard-feature": "chat/a", "x-llmguard-metadata": '{"job": "1"}'}
    first, _ = through_the_gateway(KEY, headers)
    second, third = again(first, KEY, end_user="bea"), again(first, KEY)
    assert (names(second.who), second.who.end_user) == (("search", "prod", "chat/a"), "bea")
    assert (names(third.who), third.who.end_user, third.call.metadata) == (names(first.who), None, {"job": "1"})
    assert third.principal is KEY
    third.who.team = "other"
    assert again(first, KEY).who.team == "search"


def test_a_key_that_changed_is_asked_anew() -> None:
    first, _ = through_the_gateway(KEY, {})
    assert names(again(first, replace(KEY, team="growth")).who) == ("growth", "prod", "chat")


def test_a_signed_context_is_read_each_time() -> None:
    first, _ = through_the_gateway(KEY, signed())
    assert first.call.memo == {}
    assert again(first, KEY).caller == first.caller
