"""Trips: set when a rule is broken, told of once, and heard of from the store by everybody whom they stop."""

from __future__ import annotations

from typing import Final, Literal

from llmguard.core.decision import Refuse
from llmguard.core.effects import Ask, Notice, Steps, Tell
from llmguard.core.exchange import Exchange
from llmguard.core.moves import Admitted, Denied, Done, Trip
from llmguard.core.notes import TripNote
from llmguard.core.runaway import KEEP_TRIPS_MS
from llmguard.core.watch import Rule, Scope, Watch
from llmguard.errors import StoreUnavailable
from llmguard.stages import refusals

_SCOPES: Final[tuple[Scope, ...]] = ("task", "tree", "name")
"""What the trips of an execution stop, in their order."""


def stop(x: Exchange, rule: Rule, seen: int, until: int | None = None) -> Steps[Refuse]:
    """Set the trip of a broken rule until then (by default as long as trips are kept), tell of it, and refuse."""
    note = note_of(x, rule, seen, "tripped")
    _mark(x, note)
    if (yield from is_first(note, note.at + KEEP_TRIPS_MS if until is None else until)):
        yield Notice(note)
    return refusals.runaway(note)


def is_first(note: TripNote, until: int) -> Steps[bool]:
    """Set a trip in the store. Whether this is the first word of it; without the store it is taken to be."""
    move = Trip(note.name, until)
    try:
        answer = yield Ask(move)
    except StoreUnavailable:
        answer = None
    if isinstance(answer, Done):
        return answer.changed
    yield Tell(move)  # until the store can take it
    return True


def note_of(x: Exchange, rule: Rule, seen: int, kind: Literal["tripped", "warned"], advice: str = "") -> TripNote:
    """What an operator is told of a rule and the call that broke it."""
    who, execution = x.who, x.caller.execution if x.caller is not None else None
    return TripNote(
        rule.scope,
        rule.name,
        rule.option,
        rule.limit,
        seen,
        x.now,
        rule.unit,
        kind,
        who.org,
        who.team,
        who.env,
        who.feature,
        execution.name if execution else None,
        execution.task_id if execution else who.task_id,
        execution.tree_id if execution else who.tree_id,
        execution.spent_nano if execution else 0,
        advice,
    )


def _mark(x: Exchange, note: TripNote) -> None:
    """The execution need not ask the store again."""
    execution = x.caller.execution if x.caller is not None else None
    if execution is not None and execution.trip is None:
        execution.trip = note


# ---------------------------------------------------------------------- what the store said


def admitted(x: Exchange, watch: Watch, answer: Admitted) -> Steps[None]:
    """A call was let through: a counter that only warns may have passed its limit with it."""
    for rule, seen in zip(watch.counted, answer.tallied, strict=True):
        if not rule.enforced and seen == rule.limit + 1:
            yield Notice(note_of(x, rule, seen, "warned", f"if so many are meant, set {rule.option}"))


def denied(x: Exchange, watch: Watch, answer: Denied) -> Steps[Refuse]:
    """The store refused a call because of a trip or a counter."""
    if answer.why == "tally":
        rule = watch.counted[answer.index]
        return (yield from stop(x, rule, rule.limit + watch.tallies[answer.index].add))
    name = watch.trips[answer.index]
    note = note_of(x, Rule("trip", _scope_of(name, x), name, 0), 0, "tripped")
    _mark(x, note)
    return refusals.runaway(note)


def spent(x: Exchange, rule: Rule, answer: Denied) -> Steps[Refuse]:
    """Nothing is left of a budget of the runaway guard."""
    level = answer.level
    return (yield from stop(x, rule, level.settled + level.orphan if level else rule.limit))


def crossed(x: Exchange, rule: Rule, threshold: int) -> Steps[None]:
    """A threshold of such a budget was reached."""
    advice = f"set {rule.option} to what it may cost" + ("; at the limit it is stopped" if rule.enforced else "")
    yield Notice(note_of(x, rule, threshold, "warned", advice))


def _scope_of(name: str, x: Exchange) -> Scope:
    execution = x.caller.execution if x.caller is not None else None
    if execution is not None:
        return _SCOPES[execution.trip_names.index(name)]
    return "feature" if name.startswith("feature:") else "tree"
