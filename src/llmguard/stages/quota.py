"""Reserve before the call, settle after it: no budget is passed beyond its stated bound."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from msgspec.structs import replace

from llmguard.core.buckets import Bucket, Plan, Planner, values_of
from llmguard.core.decision import Refuse
from llmguard.core.effects import Ask, Count, Notice, Spool, Steps, Tell
from llmguard.core.estimate import STEP, Estimate, estimate
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.holds import Charges, Holds
from llmguard.core.moves import Admitted, Again, Correct, Denied, Done, Extend, Hold, Part, Release, Reserve, Settle
from llmguard.core.notes import BudgetNote
from llmguard.core.outage import Allowance, Why, strictest
from llmguard.core.records import VoidRecord
from llmguard.core.rules import BudgetRule
from llmguard.core.runs import Tally
from llmguard.errors import SpoolFull, StoreUnavailable
from llmguard.stages import ratelimit, refusals, trips
from llmguard.stages.records import hold_record

_ATTEMPTS = 4
_FRESH_MS = 2_000
_FLOOR = 1_024
_NOTHING = Estimate(0, True, 0, 0, 1, 0, 0, 0, 0)
_LEEWAY = 2
"""How often the output that a caller named must have been seen, by estimate, before it is believed to be passed."""


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """``owner`` names this process to the store; ``clamp`` lets the store lower or set `max_tokens`.

    ``own_budget`` parses the budget that a key carries into a rule scoped to that key, or raises ValueError.
    ``allowance`` is what the process may do while the store is away.
    """

    owner: str
    own_budget: Callable[[str, str], BudgetRule]
    allowance: Allowance
    lease_ms: int = 60_000
    clamp: bool = True


class Quota:
    """Takes every bucket of a call or none; remembers for two seconds which buckets were spent."""

    passive = False

    def __init__(self, planner: Planner, policy: QuotaPolicy) -> None:
        self._planner = planner
        self._policy = policy
        self._memory = refusals.Memory()
        self._allowance = policy.allowance
        self._skew = 0
        self._seq = 0

    # ------------------------------------------------------------------ opening

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Refuses as in the table "What a refused caller hears"."""
        assert x.quote is not None
        try:
            own = self._own_budgets(x)
        except ValueError as error:
            return refusals.key_budget(error)
        plan = self._plan(x, own)
        refusal = self._memory.recall(x, plan, x.now + self._skew)
        if refusal is not None:
            return refusal
        prompt: int | None = 0 if x.call.prompt_bytes == 0 else None
        self._take(x, plan, estimate(x.call, x.quote, prompt))
        if prompt is None and not self._roomy(x, plan):
            prompt = yield Count(x.call, x.dialect, x.target.model)
            self._take(x, plan, estimate(x.call, x.quote, prompt))
        try:
            yield Spool(hold_record(x))
        except SpoolFull as error:
            return Refuse("accounting_unavailable", 503, f"spend cannot be recorded now: {error}", retry_after=5)
        x.hold_written = True
        if not plan.buckets and not plan.rates and x.watch is None:
            return None
        x.reserved = True
        refusal = yield from self._reserve(x)
        if refusal is not None:
            x.reserved = False
            yield Spool(VoidRecord(x.event_id))
            x.hold_written = False
        return refusal

    def gate(self, x: Exchange) -> Steps[Refuse | None]:
        """What holds for a call that costs nothing: trips, rates and concurrency, not money.

        Where the store cannot be asked such a call passes: there is nothing to lose by it.
        """
        plan = self._plan(x, ())
        named = x.watch.trips if x.watch is not None else ()
        rates = tuple([rate for rate in plan.rates if rate.unit == "requests"])
        live = Plan(tuple([b for b in plan.buckets if b.unit == "calls"]), rates, plan.until)
        if not (live.buckets or rates or named) or self._allowance.silent(x.now):
            return None
        holds = Holds(live, _NOTHING)
        lease_ms, owner = self._policy.lease_ms, self._policy.owner
        move = Reserve(x.event_id, owner, lease_ms, holds, live.steady, named, part=Part.GATE, seq=self._seq)
        try:
            answer = yield Ask(move)
        except StoreUnavailable:
            self._allowance.failed(x.now)
            return None
        if isinstance(answer, Denied):
            return (yield from self._denied(x, live, answer))
        if isinstance(answer, Admitted):
            yield Tell(Release(x.event_id))
        return None

    def _own_budgets(self, x: Exchange) -> tuple[BudgetRule, ...]:
        """What the caller's key, its task and its tree may cost."""
        watched = x.watch.budgets if x.watch is not None else ()
        principal = x.principal
        if principal is None or not principal.budget:
            return watched
        return (self._policy.own_budget(principal.key_id, principal.budget), *watched)

    def _plan(self, x: Exchange, own: tuple[BudgetRule, ...]) -> Plan:
        values = values_of(x.who, x.target.model, x.target.provider)
        plan = self._planner.plan(values, x.now + self._skew, own)
        if x.call.op in ("free", "object"):
            return Plan(tuple(b for b in plan.buckets if b.unit == "calls"), plan.rates, plan.until)
        return plan

    def _take(self, x: Exchange, plan: Plan, guess: Estimate) -> None:
        x.plan = plan
        x.estimate = guess
        x.holds = Holds(plan, guess)
        x.estimate_nano = guess.nano
        x.cap_nano = guess.cap_nano
        x.output_hold = guess.expected * guess.choices

    def _reserve(self, x: Exchange) -> Steps[Refuse | None]:
        """Ask the store; again with the exact count before a refusal for money, or in the window the store is in."""
        assert x.quote is not None
        for _ in range(_ATTEMPTS):
            plan, guess = x.plan, x.estimate
            assert plan is not None
            assert guess is not None
            if self._allowance.silent(x.now):
                return (yield from self._alone(x, plan, guess))
            try:
                answer = yield Ask(self._move(x, plan, guess))
            except StoreUnavailable:
                self._allowance.failed(x.now)
                return (yield from self._alone(x, plan, guess))
            if isinstance(answer, Admitted):
                if answer.crossed:
                    yield from _tell_of_thresholds(x, plan, answer)
                self._admitted(x, plan, guess, answer)
                if x.watch is not None:
                    yield from trips.admitted(x, x.watch, answer)
                return None
            if isinstance(answer, Denied):
                if answer.crossed:
                    yield from _tell_of_thresholds(x, plan, answer)
                if not guess.exact and answer.why in refusals.FOR_MONEY:
                    prompt = yield Count(x.call, x.dialect, x.target.model)
                    self._take(x, plan, estimate(x.call, x.quote, prompt))
                    continue
                return (yield from self._denied(x, plan, answer))
            if isinstance(answer, Again) and answer.why == "window":
                self._skew = answer.now - x.now
                self._take(x, self._plan(x, self._own_budgets(x)), guess)
                continue
            if isinstance(answer, Again) and answer.why == "cold":
                return (yield from self._alone(x, plan, guess))
            return refusals.store_away()
        return refusals.store_away()

    def _alone(self, x: Exchange, plan: Plan, guess: Estimate) -> Steps[Refuse | None]:
        """Decide without the store, as the rules have it. What the call costs is settled by its rid afterwards, and
        until then its lease is asserted as soon as the store is back."""
        why: Why | None = None
        down = plan.when_store_down
        if x.watch is not None:
            down = strictest((down, x.watch.when_store_down))
        if down == "local":
            background = x.caller is not None and x.caller.execution is not None
            why = self._allowance.take(guess.nano, x.now, background=background)
        if down == "deny" or why is not None:
            yield Tell(Release(x.event_id))  # the store may have taken it, only its answer was lost
            return refusals.store_away(why)
        x.admitted_at = x.now + self._skew
        return None

    def _move(self, x: Exchange, plan: Plan, guess: Estimate) -> Reserve:
        call = x.call
        named = call.max_tokens is not None
        most = guess.max_output
        return Reserve(
            x.event_id,
            self._policy.owner,
            self._policy.lease_ms,
            x.holds,
            plan.steady or tuple([guess.rate(bucket) for bucket in plan.rates]),
            x.watch.trips if x.watch is not None else (),
            _counted(x),
            max_output=most,
            named=named,
            floor=min(most, max(4 * guess.expected, _FLOOR)),
            clamp=self._policy.clamp and call.generates and not (call.stream and not call.hidden_output),
            seq=self._seq,
        )

    def _admitted(self, x: Exchange, plan: Plan, guess: Estimate, answer: Admitted) -> None:
        self._allowance.answered(x.now)
        if answer.seq > self._seq:
            self._seq = answer.seq
        skew = answer.now - x.now
        self._skew = skew if abs(skew) > _FRESH_MS else 0
        x.admitted_at = answer.now
        plan.see(answer.levels, x.now)
        if answer.max_output is not None:
            x.edits = replace(x.edits, max_tokens=answer.max_output)
            x.headers.append((b"x-llmguard-max-tokens", b"%d" % answer.max_output))
            guess.max_output = answer.max_output
            x.cap_nano = guess.cap_nano
        ratelimit.describe(x.headers, x.call.family, plan, answer)

    def _denied(self, x: Exchange, plan: Plan, answer: Denied) -> Steps[Refuse]:
        watch = x.watch
        if answer.why == "rate":
            return refusals.rate(plan.rates[answer.index], answer)
        if watch is not None and answer.why in ("tripped", "tally"):
            refusal = yield from trips.denied(x, watch, answer)
            if answer.why == "tripped":
                self._memory.note_trip(watch.trips[answer.index], refusal, answer.now)
            return refusal
        bucket = plan.buckets[answer.index]
        rule = watch.paid_rule(bucket.rule) if watch is not None else None
        if answer.why == "spent":
            if rule is not None:
                return (yield from trips.spent(x, rule, answer))
            self._memory.note(bucket, answer)
        return refusals.budget(bucket, answer, x.event_id)

    def _roomy(self, x: Exchange, plan: Plan) -> bool:
        """Whether every bucket is known, from an answer at most two seconds old, to have room for many such calls."""
        guess = x.estimate
        assert guess is not None
        if x.now - plan.seen_at > _FRESH_MS:
            return not plan.budgets
        return guess.fits_often(plan.room)

    # ------------------------------------------------------------------ running

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Raise the hold of a stream that has used it up; a refusal cuts the stream."""
        guess, plan, reader = x.estimate, x.plan, x.reader
        assert guess is not None
        assert plan is not None
        assert reader is not None
        if not x.reserved or reader.generated <= x.output_hold:
            x.output_hold = max(x.output_hold, reader.generated)
            return None
        named = (x.call.max_tokens or 0) * guess.choices
        if named <= x.output_hold and reader.generated <= _LEEWAY * named:
            # All that the provider may write is held; only our estimate of it has passed that.
            x.output_hold = _LEEWAY * named
            return None
        wanted = -(-reader.generated // guess.choices) + STEP
        grown = guess.grown(wanted)
        holds = tuple([_capped(grown.hold(bucket), grown.max_output) for bucket in plan.buckets])
        try:
            answer = yield Ask(Extend(x.event_id, self._policy.lease_ms, holds))
        except StoreUnavailable:
            most = guess.max_output * guess.choices
            if reader.generated > most:
                return refusals.store_away()
            x.output_hold = most  # what was admitted may be used up without asking again at every chunk
            return None
        if isinstance(answer, Denied):
            return (yield from self._denied(x, plan, answer))
        if isinstance(answer, Done):
            x.output_hold = wanted * guess.choices
            x.estimate_nano = grown.nano
            x.cap_nano = grown.cap_nano
            x.estimate = grown
            # Whoever adopts this call charges within what is held now. Without room the earlier record stands.
            with suppress(SpoolFull):
                yield Spool(hold_record(x))
        return None

    # ------------------------------------------------------------------ closing

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """Put the actual amounts in the place of the hold, or take the hold out of a call that cost nothing."""
        if not x.reserved:
            return
        if not x.sent:
            yield Tell(Release(x.event_id, _corrections(x, 0), _counted(x)))
        elif x.usage is not None and x.cost is not None:
            tokens = x.usage.input_tokens + x.usage.output_tokens
            assert x.plan is not None
            charges = Charges(x.plan, x.cost.total, tokens)
            at = x.now + self._skew
            yield Tell(Settle(x.event_id, x.source, at, charges, _corrections(x, tokens), _uncounted(x)))


def _tell_of_thresholds(x: Exchange, plan: Plan, answer: Admitted | Denied) -> Steps[None]:
    for index, threshold in answer.crossed:
        bucket = plan.buckets[index]
        rule = x.watch.paid_rule(bucket.rule) if x.watch is not None else None
        if rule is not None:
            yield from trips.crossed(x, rule, threshold)
        else:
            yield Notice(_crossing(bucket, threshold, answer.now))


def _crossing(bucket: Bucket, threshold: int, at: int) -> BudgetNote:
    end = bucket.resets_at
    return BudgetNote(
        bucket.name, bucket.rule, bucket.scope, bucket.unit, bucket.limit, threshold, bucket.window, end, at
    )


def _counted(x: Exchange) -> tuple[Tally, ...]:
    """What the call was counted in."""
    return x.watch.tallies if x.watch is not None else ()


def _uncounted(x: Exchange) -> tuple[Tally, ...]:
    """Out of what it is taken again: a call that failed and was not billed is no step of a job that runs away."""
    return _counted(x) if x.status >= 400 and x.cost is not None and x.cost.total == 0 else ()


def _corrections(x: Exchange, tokens: int) -> tuple[Correct, ...]:
    """What the token rates must take or give back, because ``tokens`` were used and not what was estimated."""
    plan, guess = x.plan, x.estimate
    assert plan is not None
    assert guess is not None
    if not plan.paces_tokens:
        return ()
    difference = tokens - guess.tokens
    return tuple([Correct(r.name, r.period_ms, r.limit, difference) for r in plan.rates if r.unit == "tokens"])


def _capped(hold: Hold, most: int) -> Hold:
    """An extension names its cap outright: everything is fixed, nothing depends on a further `max_tokens`."""
    hold.fixed += hold.per_output * most
    hold.per_output = 0
    return hold
