"""Work that runs away: what a task, everything that it started, and a feature may do before they are stopped.

What one execution does is counted here, in the process that runs it; what a whole tree does is counted in the quota
store, with the reservation of the call. A rule that is broken sets a trip (see :mod:`llmguard.stages.trips`); one that
is not enforced warns once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llmguard.core import entries, repeats
from llmguard.core.call import Caller
from llmguard.core.decision import Refuse
from llmguard.core.effects import Ask, Notice, Steps
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.outage import Allowance, WhenStoreDown
from llmguard.core.rules import PPM, BudgetRule
from llmguard.core.runaway import KEEP_TRIPS_MS, USD, Execution
from llmguard.core.runs import Entered, Tally
from llmguard.core.watch import Rule, Watch
from llmguard.errors import StoreUnavailable
from llmguard.stages import refusals, trips
from llmguard.stages.repeating import Features, Often

_FREE: Final = ("free", "object")


@dataclass(frozen=True, slots=True)
class RunawayPolicy:
    """The section `runaway`: limits on callers that are no task.

    ``tree_budget`` is nano-USD. ``velocity`` is how many times its usual pace a feature may call before somebody is
    told; 0 watches no pace.
    """

    mode: Literal["off", "warn", "enforce"] = "warn"
    identical_prompts: Often = (20, 600_000)
    similar_prompts: Often = (200, 600_000)
    tree_calls: int = 2_000
    tree_budget: int = 50 * USD
    velocity: int = 10


class Runaway:
    """Counts, watches and stops what runs away."""

    passive = False

    def __init__(self, policy: RunawayPolicy, allowance: Allowance) -> None:
        self._policy = policy
        self._allowance = allowance
        self._features = Features(policy.identical_prompts, policy.similar_prompts, policy.velocity)

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Refuses with 403 `runaway_tripped`."""
        caller = x.caller
        execution = caller.execution if caller is not None else None
        if caller is not None and execution is not None:
            refusal = yield from self._within(x, caller, execution)
            if refusal is not None or x.watch is None:
                return refusal
        mode, left = self._policy.mode, caller.left if caller is not None else None
        if left is not None and left.policy.mode != "off" and x.call.op not in _FREE:
            x.watch = _watch_left(left)
        if mode == "off" or x.call.op in _FREE:
            return None
        if execution is None and left is None and x.who.tree_id is not None:
            x.watch = _watch_tree(x.who.tree_id, self._policy)
        if not x.call.body:
            return None
        return (yield from self._features.watch(x, enforced=execution is None and mode == "enforce"))

    def _within(self, x: Exchange, caller: Caller, execution: Execution) -> Steps[Refuse | None]:
        policy = execution.policy
        if policy.mode == "off":
            return None
        if execution.trip is not None:
            return refusals.runaway(execution.trip)
        if x.call.op in _FREE:
            return None
        if execution.entrance is not None:
            refusal = yield from self._enter(x, caller, execution)
            if refusal is not None:
                return refusal
        if execution.watch is None:
            execution.watch = _watch_task(execution)
        x.watch = execution.watch
        execution.calls += 1
        seen = _count_prompt(execution, x, 1)
        most = policy.identical_prompts
        if most is not None and seen > most * caller.samples:
            refusal = yield from _broken(x, _rule(execution, "identical_prompts", most * caller.samples), seen)
            if refusal is not None:
                return refusal
        if policy.max_calls is not None and execution.calls > policy.max_calls:
            return (yield from _broken(x, _rule(execution, "max_calls", policy.max_calls), execution.calls))
        return None

    def _enter(self, x: Exchange, caller: Caller, execution: Execution) -> Steps[Refuse | None]:
        """The first call of a task that was not asked for before its body: ask for it now."""
        move = execution.entrance
        assert move is not None
        execution.entrance = None
        if self._allowance.silent(x.now):
            return None  # quota decides what may be done without the store
        try:
            answer = yield Ask(move)
        except StoreUnavailable:
            self._allowance.failed(x.now)
            return None
        if not isinstance(answer, Entered):
            return None
        heard = entries.hear(execution, caller, move, answer)
        for note in heard.warned:
            yield Notice(note)
        if heard.stop is None:
            return None
        execution.trip = execution.trip or heard.stop
        until = entries.trip_until(heard.stop)
        if until is not None and (yield from trips.is_first(heard.stop, until)):
            yield Notice(heard.stop)
        return refusals.runaway(heard.stop)

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Nothing to look after: the money of a running stream is quota's."""
        yield from ()
        return None

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """What a call cost counts for its execution. One that was never sent does not count, nor one that failed and
        was not billed: to try it again is right, however often."""
        yield from ()
        execution = x.caller.execution if x.caller is not None else None
        if execution is None or x.watch is None:
            return
        cost = x.cost.total if x.cost is not None else 0
        execution.spent_nano += cost
        if not x.sent or (x.status >= 400 and cost == 0):
            execution.calls -= 1
            _count_prompt(execution, x, -1)


def _count_prompt(execution: Execution, x: Exchange, change: int) -> int:
    """Count a prompt of an execution, or take it back; how often it was sent."""
    if not x.call.body:
        return 0
    fingerprint = repeats.exact(x.call.body)
    seen = execution.prompts.get(fingerprint, 0) + change
    if seen > 0:
        execution.prompts[fingerprint] = seen
    else:
        execution.prompts.pop(fingerprint, None)
    return seen


def _broken(x: Exchange, rule: Rule, seen: int) -> Steps[Refuse | None]:
    """A rule of an execution does not hold any more: stop it, or warn once."""
    if rule.enforced:
        return (yield from trips.stop(x, rule, seen))
    execution = x.caller.execution if x.caller is not None else None
    if execution is not None and rule.option not in execution.warned:
        execution.warned.add(rule.option)
        yield Notice(trips.note_of(x, rule, seen, "warned", f"if so many are meant, set {rule.option}"))
    return None


# ---------------------------------------------------------------------- what quota takes to the store


def _watch_task(execution: Execution) -> Watch:
    """What every call of an execution is put under: its trips, and what itself and its tree may do in all."""
    policy = execution.policy
    counted: tuple[Rule, ...] = ()
    if policy.max_tree_calls is not None:
        counted = (_rule(execution, "max_tree_calls", policy.max_tree_calls, "tree"),)
    paid = tuple(
        _rule(execution, option, limit, scope, "usd")
        for option, limit, scope in _budgets_of(execution)
        if limit is not None
    )
    values = {"task": execution.task_id, "tree": execution.tree_id}
    return Watch(
        execution.trip_names if policy.enforced else (),
        tuple(_tree_tally(rule) for rule in counted),
        counted,
        tuple(_budget(rule, values[rule.scope], policy.on_unavailable) for rule in paid),
        paid,
        policy.on_unavailable if policy.enforced else "allow",
    )


def _watch_left(execution: Execution) -> Watch:
    """What is left of that for a thread that outlives its task: all that holds for the tree."""
    whole = execution.watch or _watch_task(execution)
    pairs = [pair for pair in zip(whole.budgets, whole.paid, strict=True) if pair[1].scope == "tree"]
    budgets, paid = tuple(budget for budget, _ in pairs), tuple(rule for _, rule in pairs)
    trips = execution.trip_names[1:2] if execution.policy.enforced else ()
    return Watch(trips, whole.tallies, whole.counted, budgets, paid, whole.when_store_down)


def _budgets_of(execution: Execution) -> tuple[tuple[str, int | None, Literal["task", "tree"]], ...]:
    policy = execution.policy
    return ("budget", policy.budget, "task"), ("tree_budget", policy.tree_budget, "tree")


def _rule(
    execution: Execution, option: str, limit: int, scope: Literal["task", "tree"] = "task", unit: str = "calls"
) -> Rule:
    policy = execution.policy
    name = execution.trip_names[0 if scope == "task" else 1]
    return Rule(option, scope, name, limit, unit, option in policy.enforced, option in policy.chosen)


def _watch_tree(tree: str, policy: RunawayPolicy) -> Watch:
    """The same for a request and what it started, which are no task."""
    enforced = policy.mode == "enforce"
    calls = Rule("runaway.tree_calls", "tree", f"tree:{tree}", policy.tree_calls, "calls", enforced)
    money = Rule("runaway.tree_budget", "tree", f"tree:{tree}", policy.tree_budget, "usd", enforced)
    names = (calls.name,) if enforced else ()
    down: WhenStoreDown = "local" if enforced else "allow"
    return Watch(names, (_tree_tally(calls),), (calls,), (_budget(money, tree, down),), (money,), down)


def _tree_tally(rule: Rule) -> Tally:
    return Tally(rule.name, "calls", rule.limit if rule.enforced else 0, KEEP_TRIPS_MS)


def _budget(rule: Rule, value: str, when_store_down: WhenStoreDown) -> BudgetRule:
    """A budget that is forgotten some days after its work began. At half of one that nobody chose, and at the whole of
    one that only warns, somebody is told."""
    marks = (() if rule.chosen else (PPM // 2,)) + (() if rule.enforced else (PPM,))
    mode: Literal["enforce", "warn"] = "enforce" if rule.enforced else "warn"
    scope: dict[str, str] = {rule.scope: value}
    return BudgetRule(
        rule.option,
        scope,
        rule.limit,
        "usd",
        "total",
        mode=mode,
        alert_ppm=marks,
        keep_ms=KEEP_TRIPS_MS,
        when_store_down=when_store_down if rule.enforced else "allow",
    )
