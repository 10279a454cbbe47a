"""One call from open to close, played by a script: what is asked, in which order, and what is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmguard.core.buckets import Planner
from llmguard.core.call import Call, Edits, ObjectRef, Principal
from llmguard.core.decision import Admit, Refuse, Target
from llmguard.core.effects import Ask, Spool, Tell
from llmguard.core.exchange import Ending, Exchange, Pipeline, State
from llmguard.core.money import Price, Rates
from llmguard.core.moves import Admitted, Denied, Done, Level, Release, Reserve, Settle
from llmguard.core.outage import Allowance
from llmguard.core.ports import Quote
from llmguard.core.records import HoldRecord, PartialRecord, SentRecord, SettleRecord, VoidRecord
from llmguard.core.rules import BudgetRule, LimitRule
from llmguard.core.usage import Usage
from llmguard.errors import SpoolFull, StoreUnavailable
from llmguard.stages.authn import Authn
from llmguard.stages.meter import Meter
from llmguard.stages.quota import Quota, QuotaPolicy
from llmguard.stages.route import Route
from llmguard.stages.tenancy import Tenancy
from tests.support.script import Script

NOW = 1_764_000_000_000
PER_MILLION = 10**9
PRICE = Price(Rates(input=5 * PER_MILLION, output=15 * PER_MILLION), "test")
PRICES = {
    None: PRICE,
    "default": PRICE,
    "flex": Price(Rates(input=2 * PER_MILLION, output=7 * PER_MILLION), "test flex"),
    "priority": Price(Rates(input=10 * PER_MILLION, output=30 * PER_MILLION), "test priority", known=False),
}
ME = Principal("k1", "key:k1", "search", "prod", "chat")
LEVEL = Level(0, 0, 0, 0)


class Reader:
    """A dialect's reader whose findings the test sets."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.model: str | None = "gpt-4o-2024"
        self.service_tier: str | None = None
        self.finish_reason: str | None = "stop"
        self.generated = 0
        self.finished = False
        self.failed = False
        self.created: list[ObjectRef] = []

    def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Nothing to read."""

    def feed(self, data: bytes) -> bytes:
        """Ten tokens a chunk."""
        self.generated += 10
        return data


class Dialect:
    """Only what the exchange asks for."""

    name = "openai_chat"

    def __init__(self) -> None:
        self.last = Reader()

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        return self.last


class World:
    """Router and price book in one."""

    def target(self, call: Call) -> Target | Refuse:
        return Target("openai", call.model)

    def quote(self, provider: str, model: str, tier: str | None = None) -> Quote:
        return Quote(PRICES[tier], 4_096, 128_000)


def a_call(**fields: Any) -> Call:
    base: dict[str, Any] = {"prompt_bytes": 40, "max_tokens": 100, "headers": {}}
    base |= fields
    headers = base.pop("headers")
    return Call(
        "openai_chat", "openai", "/v1/chat/completions", "POST", "/v1/chat/completions", "", headers, b"{}", "m", **base
    )


def exchange(call: Call | None = None, budgets: list[BudgetRule] | None = None, limits: Any = ()) -> Exchange:
    rules = [BudgetRule("h", {"team": "*"}, 10**9, "usd", "hour")] if budgets is None else budgets
    world = World()
    quota = Quota(Planner(rules, limits), QuotaPolicy("me", lambda key, text: rules[0], Allowance()))
    stages = Pipeline((Authn(), Route(world, world, refuse_unknown=False), Tenancy(), quota, Meter(world)))
    return Exchange(
        call or a_call(),
        Dialect(),
        stages,
        event_id="0190-00ff",
        secret="lg_x",
        now=NOW,  # type: ignore[arg-type]
    )


def admitted(effect: Ask) -> Admitted:
    assert isinstance(effect.move, Reserve)
    return Admitted(
        NOW + 5, 7, None, tuple(LEVEL for _ in effect.move.holds), tuple((9, 500) for _ in effect.move.rates)
    )


def script(**replies: Any) -> Script:
    return Script(**({"Verify": ME, "Count": 12, "Ask": admitted, "Owners": ["default/search"]} | replies))


def records(script: Script) -> list[Any]:
    return [effect.record for effect in script.seen if isinstance(effect, Spool)]


def test_a_whole_call_holds_reserves_sends_records_and_settles_in_this_order() -> None:
    x, world = exchange(), script()
    assert isinstance(world.play(x.open(NOW)), Admit)
    assert world.names() == ["Verify", "Count", "Spool", "Ask"]
    sent = x.dispatch()
    assert sent.record == SentRecord("0190-00ff", "0190-00ff")
    x.answer(200, NOW + 10)
    x.reader.usage = Usage(12, 30)  # type: ignore[union-attr]
    x.whole("application/json", b"{}", NOW + 20)
    world.play(x.close(Ending.DONE, NOW + 20))
    assert world.names()[4:] == ["Spool", "Tell", "Emit"]
    hold, settle = records(world)
    assert isinstance(hold, HoldRecord)
    assert isinstance(settle, SettleRecord)
    entry = settle.entry
    assert (entry.team, entry.env, entry.feature, entry.key_id) == ("search", "prod", "chat", "k1")
    assert (entry.input_tokens, entry.output_tokens, entry.usage_source, entry.rev) == (12, 30, "provider", 3)
    assert entry.cost_nano == 12 * 5_000 + 30 * 15_000
    assert (entry.created_at, entry.latency_ms, entry.status) == (NOW + 5, 20, 200)
    told = next(e.move for e in world.seen if isinstance(e, Tell))
    assert isinstance(told, Settle)
    assert [c.amount for c in told.charges] == [entry.cost_nano] == [b.amount for b in settle.buckets]


def test_a_refused_call_voids_its_hold_and_tells_the_store_nothing() -> None:
    denied = Denied(NOW, "spent", 0, Level(10**9, 5, 0, 0))
    x, world = exchange(), script(Ask=denied)
    refusal = world.play(x.open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.status, refusal.should_retry, refusal.retry_after) == (
        "budget_exceeded",
        429,
        False,
        3600,
    )
    assert (refusal.spent, refusal.held, refusal.limit, refusal.unit) == (10**9 + 5, 0, 10**9, "usd")
    assert [type(r) for r in records(world)] == [HoldRecord, VoidRecord]
    world.play(x.close(Ending.DONE, NOW))
    assert [type(r) for r in records(world)] == [HoldRecord, VoidRecord]
    assert "Tell" not in world.names()


def test_a_spent_bucket_is_remembered_so_that_the_next_call_costs_no_store_trip() -> None:
    denied = Denied(NOW, "spent", 0, Level(10**9, 0, 0, 0))
    first = exchange()
    script(Ask=denied).play(first.open(NOW))
    for later, names in ((NOW + 1_999, ["Verify", "Emit"]), (NOW + 2_001, ["Verify", "Count", "Spool", "Ask"])):
        again = Exchange(a_call(), Dialect(), first.stages, event_id="e2-1", secret="lg", now=later)  # type: ignore[arg-type]
        world = script()
        world.play(again.open(later))
        assert world.names() == names


def test_the_upper_bound_admits_while_there_is_room_and_is_counted_before_a_refusal_for_money() -> None:
    x = exchange()
    script().play(x.open(NOW))
    again = Exchange(a_call(), Dialect(), x.stages, event_id="e2-1", secret="lg", now=NOW + 10)  # type: ignore[arg-type]
    contended = Denied(NOW, "contended", 0, Level(0, 0, 10**9, 0))
    world = script(Ask=[contended, admitted])
    assert isinstance(world.play(again.open(NOW + 10)), Admit)
    assert world.names() == ["Verify", "Spool", "Ask", "Count", "Ask"]
    first, second = (e.move.holds[0].estimate for e in world.seen if isinstance(e, Ask) and isinstance(e.move, Reserve))
    assert (first, second) == (40 * 5_000 + 100 * 15_000, 12 * 5_000 + 100 * 15_000)


def test_a_silent_store_refuses_releases_and_voids_where_the_rule_denies() -> None:
    rule = BudgetRule("h", {"team": "*"}, 10**9, "usd", "hour", when_store_down="deny")
    x, world = exchange(budgets=[rule]), script(Ask=StoreUnavailable("silent"))
    refusal = world.play(x.open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.status, refusal.retry_after) == ("quota_unavailable", 503, 5)
    assert [type(r) for r in records(world)] == [HoldRecord, VoidRecord]
    assert [type(e.move) for e in world.seen if isinstance(e, Tell)] == [Release]


def test_a_full_spool_refuses_before_anything_is_asked_of_the_store() -> None:
    x, world = exchange(), script(Spool=SpoolFull("disk full"))
    refusal = world.play(x.open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.status) == ("accounting_unavailable", 503)
    assert "Ask" not in world.names()


def test_a_caller_who_leaves_before_the_first_byte_is_released() -> None:
    x, world = exchange(), script()
    world.play(x.open(NOW))
    world.play(x.close(Ending.CALLER_GONE, NOW + 1))
    assert type(records(world)[-1]) is VoidRecord
    assert [type(e.move) for e in world.seen if isinstance(e, Tell)] == [Release]


def test_closing_twice_records_once() -> None:
    x, world = exchange(), script()
    world.play(x.open(NOW))
    x.dispatch()
    world.play(x.close(Ending.UPSTREAM_FAILED, NOW + 1))
    before = len(world.seen)
    world.play(x.close(Ending.DONE, NOW + 2))
    assert len(world.seen) == before
    assert x.state is State.CLOSED


def test_a_call_that_was_sent_and_never_answered_is_charged_what_was_expected() -> None:
    x, world = exchange(), script()
    world.play(x.open(NOW))
    x.dispatch()
    world.play(x.close(Ending.UPSTREAM_FAILED, NOW + 1))
    entry = records(world)[-1].entry
    assert (entry.usage_source, entry.interrupted) == ("estimated", "upstream_failed")
    assert entry.cost_nano == x.estimate_nano == 12 * 5_000 + 100 * 15_000


def test_a_relayed_error_is_a_row_of_cost_zero_and_takes_no_budget() -> None:
    x, world = exchange(), script()
    world.play(x.open(NOW))
    x.dispatch()
    x.answer(500, NOW)
    x.whole("application/json", b"{}", NOW)
    world.play(x.close(Ending.DONE, NOW))
    assert records(world)[-1].entry.cost_nano == 0
    told = next(e.move for e in world.seen if isinstance(e, Tell))
    assert isinstance(told, Settle)
    assert [c.amount for c in told.charges] == [0]


def test_a_stream_extends_its_hold_and_a_refused_extension_is_charged_as_seen() -> None:
    x = exchange(a_call(stream=True, max_tokens=None))
    world = script(Ask=[admitted, Done(NOW, True), Denied(NOW, "insufficient", 0, Level(10**9, 0, 0, 0))])
    world.play(x.open(NOW))
    x.dispatch()
    reader = x.answer(200, NOW)
    x.feed(b"data: x\n\n", NOW)
    assert not x.due
    reader.generated = 1_030
    x.feed(b"data: x\n\n", NOW)
    assert x.due
    assert world.play(x.attend()) is None
    assert x.output_hold == 1_040 + 1_024
    raised = records(world)[-1]
    assert isinstance(raised, HoldRecord)
    assert (raised.entry.event_id, raised.entry.attempt_id) == ("0190-00ff", "0190-00ff")
    assert (raised.entry.output_tokens, raised.entry.cost_nano) == (2_064, 12 * 5_000 + 2_064 * 15_000)
    assert raised.entry.cap_nano == 12 * 5_000 + 3_088 * 15_000
    assert [b.amount for b in raised.buckets] == [raised.entry.cost_nano]
    reader.generated = 3_000
    x.feed(b"data: x\n\n", NOW)
    refusal = world.play(x.attend())
    assert isinstance(refusal, Refuse)
    assert refusal.code == "budget_insufficient"
    world.play(x.close(Ending.BUDGET_CUT, NOW))
    entry = records(world)[-1].entry
    assert (entry.output_tokens, entry.usage_source, entry.interrupted) == (3_010, "estimated", "budget_cut")


def test_a_stream_goes_on_where_its_raised_hold_finds_no_room_in_the_spool() -> None:
    x = exchange(a_call(stream=True, max_tokens=None))
    world = script(Ask=[admitted, Done(NOW, True)])
    world.play(x.open(NOW))
    x.dispatch()
    x.answer(200, NOW).generated = 1_030
    x.feed(b"data: x\n\n", NOW)
    world.replies["Spool"] = SpoolFull("disk full")
    assert world.play(x.attend()) is None
    assert x.output_hold == 1_040 + 1_024


def test_a_stream_uses_up_what_it_was_admitted_with_while_the_store_is_away_and_no_more() -> None:
    x = exchange(a_call(stream=True, max_tokens=None))
    world = script(Ask=[admitted, StoreUnavailable("silent"), StoreUnavailable("silent")])
    world.play(x.open(NOW))
    x.dispatch()
    reader = x.answer(200, NOW)
    for seen in (1_030, 1_500, 2_038):
        reader.generated = seen
        x.feed(b"data: x\n\n", NOW)
        if x.due:
            assert world.play(x.attend()) is None
    assert world.names().count("Ask") == 2, "asked again before the cap was reached"
    x.feed(b"data: x\n\n", NOW)
    assert x.due
    refusal = world.play(x.attend())
    assert isinstance(refusal, Refuse)
    assert refusal.code == "quota_unavailable"


def test_an_estimate_beyond_the_maximum_that_the_caller_named_needs_no_further_room() -> None:
    """The provider stops at 100 tokens; 200 are the most that 100 are taken for."""
    x = exchange(a_call(stream=True, max_tokens=100))
    world = script(Ask=[admitted, Denied(NOW, "insufficient", 0, Level(10**9, 0, 0, 0))])
    world.play(x.open(NOW))
    x.dispatch()
    reader = x.answer(200, NOW)
    for seen in (95, 150, 190):
        reader.generated = seen
        x.feed(b"data: x\n\n", NOW)
        if x.due:
            assert world.play(x.attend()) is None
    assert world.names().count("Ask") == 1
    x.feed(b"data: x\n\n", NOW)
    refusal = world.play(x.attend())
    assert isinstance(refusal, Refuse)
    assert refusal.code == "budget_insufficient"


def test_a_key_whose_budget_cannot_be_read_is_refused_before_anything_is_held() -> None:
    def unreadable(key_id: str, text: str) -> BudgetRule:
        raise ValueError(f"{text!r} is no amount")

    stages = Pipeline(
        (
            Authn(),
            Route(World(), World(), refuse_unknown=False),
            Quota(Planner([], ()), QuotaPolicy("me", unreadable, Allowance())),
        )
    )
    x = Exchange(a_call(), Dialect(), stages, event_id="e-1", secret="lg", now=NOW)  # type: ignore[arg-type]
    world = script(Verify=replace(ME, budget="lots"))
    refusal = world.play(x.open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.status, refusal.should_retry) == ("key_budget_invalid", 403, False)
    assert "'lots' is no amount" in refusal.message
    assert world.names() == ["Verify", "Emit"]


@pytest.mark.parametrize(
    ("asked", "served", "version", "held", "charged"),
    [
        (None, "default", "test", 5_000, 5_000),
        (None, "flex", "test flex", 5_000, 2_000),
        (None, "priority", "test priority", 5_000, 10_000),
        ("priority", "default", "test", 10_000, 5_000),
        ("priority", None, "test priority", 10_000, 10_000),
        ("flex", "flex", "test flex", 5_000, 2_000),
        ("flex", None, "test", 5_000, 5_000),
    ],
)
def test_a_call_is_held_at_the_dearest_tier_that_it_may_get_and_pays_the_one_that_served_it(
    asked: str | None, served: str | None, version: str, held: int, charged: int
) -> None:
    x, world = exchange(a_call(service_tier=asked, max_tokens=0)), script()
    world.play(x.open(NOW))
    x.dispatch()
    reader = x.answer(200, NOW)
    reader.usage, reader.service_tier = Usage(12, 0), served
    x.whole("application/json", b"{}", NOW)
    world.play(x.close(Ending.DONE, NOW))
    hold, settle = records(world)
    assert hold.entry.cost_nano == 12 * held
    assert (settle.entry.cost_nano, settle.entry.price_version) == (12 * charged, version)


def test_a_tier_without_a_known_price_is_refused_where_unknown_models_are() -> None:
    stages = Pipeline((Authn(), Route(World(), World(), refuse_unknown=True)))
    x = Exchange(a_call(service_tier="priority"), Dialect(), stages, event_id="e-1", secret="lg", now=NOW)  # type: ignore[arg-type]
    refusal = script().play(x.open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, "service tier 'priority'" in refusal.message) == ("unknown_model", True)


def test_a_call_with_a_search_tool_that_breaks_off_is_charged_the_search_that_was_expected() -> None:
    x, world = exchange(a_call(web_searches=5)), script()
    x_price = replace(PRICE, per_web_search=10**13)
    world.play(x.open(NOW))
    x.quote = Quote(x_price, 4_096, 128_000)
    x.cap_nano = 10**9
    x.dispatch()
    world.play(x.close(Ending.UPSTREAM_FAILED, NOW + 1))
    entry = records(world)[-1].entry
    assert entry.cost_nano == 12 * 5_000 + 100 * 15_000 + 10_000_000


def test_a_long_stream_leaves_a_partial_every_four_kibibytes() -> None:
    x, world = exchange(a_call(stream=True)), script()
    world.play(x.open(NOW))
    x.dispatch()
    x.answer(200, NOW)
    x.feed(b"x" * 4_096, NOW)
    assert x.due
    world.play(x.attend())
    partial = records(world)[-1]
    assert partial == PartialRecord("0190-00ff", 10, 12 * 5_000 + 10 * 15_000)


@pytest.mark.parametrize(
    ("reply", "code", "status"), [("unknown", "invalid_api_key", 401), ("expired", "invalid_api_key", 401)]
)
def test_a_wrong_key_costs_nothing_and_asks_nothing_more(reply: str, code: str, status: int) -> None:
    world = script(Verify=reply)
    refusal = world.play(exchange().open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.status) == (code, status)
    assert world.names() == ["Verify", "Emit"]


def test_naming_another_teams_object_is_refused_before_any_hold() -> None:
    world = script(Owners=["default/ads"])
    refusal = world.play(exchange(a_call(reads=(ObjectRef("response", "resp_1"),))).open(NOW))
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.status) == ("object_not_found", 404)
    assert world.names() == ["Verify", "Owners", "Emit"]


@pytest.mark.parametrize(
    ("header", "feature"), [("chat", "chat"), ("chat/ranking", "chat/ranking"), ("other", None), ("chatter", None)]
)
def test_the_feature_header_may_only_narrow(header: str, feature: str | None) -> None:
    x = exchange(a_call(headers={"x-llmguard-feature": header}))
    decision = script().play(x.open(NOW))
    if feature is None:
        assert isinstance(decision, Refuse)
        assert decision.code == "attribution_not_allowed"
    else:
        assert x.who.feature == feature


def test_a_clamped_call_is_told_its_new_maximum() -> None:
    answer = Admitted(NOW, 1, 2_000, (LEVEL,))
    x = exchange(a_call(max_tokens=None))
    decision = script(Ask=answer).play(x.open(NOW))
    assert isinstance(decision, Admit)
    assert decision.edits == Edits(max_tokens=2_000)
    assert (b"x-llmguard-max-tokens", b"2000") in decision.headers


def test_free_operations_count_against_rates_but_hold_no_money() -> None:
    limits = [LimitRule("rpm", {"key": "*"}, "rate", 10, 60_000)]
    call = a_call(generates=False, max_tokens=None, prompt_bytes=0)
    call.op = "free"
    x, world = exchange(call, limits=limits), script()
    assert isinstance(world.play(x.open(NOW)), Admit)
    move = next(e.move for e in world.seen if isinstance(e, Ask))
    assert isinstance(move, Reserve)
    assert list(move.holds) == []
    assert [r.name for r in move.rates] == ["requests|10/60000|key=k1"]


def test_a_reply_in_which_nothing_could_be_read_is_charged_by_its_bytes() -> None:
    x, world = exchange(), script()
    world.play(x.open(NOW))
    x.dispatch()
    x.answer(200, NOW)
    x.whole("text/plain", b"y" * 202, NOW)
    world.play(x.close(Ending.DONE, NOW))
    entry = records(world)[-1].entry
    assert (entry.input_tokens, entry.output_tokens, entry.usage_source) == (12, 51, "estimated")


def test_an_estimate_of_output_never_passes_the_maximum_that_the_caller_named() -> None:
    x, world = exchange(a_call(stream=True)), script()
    world.play(x.open(NOW))
    x.dispatch()
    x.answer(200, NOW).generated = 130
    world.play(x.close(Ending.DONE, NOW))
    entry = records(world)[-1].entry
    assert (entry.output_tokens, entry.cost_nano) == (100, 12 * 5_000 + 100 * 15_000)
