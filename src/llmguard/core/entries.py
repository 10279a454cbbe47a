"""How a run of a task asks the quota store for its entry, and what it makes of the answer.

The same for a task that asks before its body and for one that asks with its first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from llmguard.core.call import UNATTRIBUTED, Caller
from llmguard.core.notes import TripNote
from llmguard.core.runaway import KEEP_TRIPS_MS, Execution
from llmguard.core.runs import Enter, Entered, Tally, Verdict

_RULES: Final[dict[Verdict, str]] = {
    "tripped": "trip",
    "paid": "max_paid_attempts",
    "lost": "max_redeliveries",
    "tally": "max_tree_tasks",
    "breaker": "breaker",
    "retry_budget": "retry_budget",
}
_DUPLICATES: Final[tuple[Verdict, ...]] = ("done", "running")
_SCOPES: Final[tuple[Literal["task", "tree", "name"], ...]] = ("task", "tree", "name")
_BY_THEMSELVES: Final = frozenset({"breaker", "retry_budget", "trip"})
"""Rules that the store lifts by itself: no trip has to be set for them."""

_ADVICE: Final = {
    "max_paid_attempts": "set max_paid_attempts to how often it may be paid for, and it will be stopped there",
    "max_redeliveries": "set max_redeliveries to how often it may lose its worker, and it will be stopped there",
    "max_tree_tasks": "if so many are meant, set max_tree_tasks",
    "max_depth": "if it is meant to go so deep, set max_depth",
    "max_runtime": "if it may take so long, set max_runtime",
    "breaker": "if so many failures are normal, set breaker",
    "retry_budget": "if so many retries are normal, set retry_budget",
    "double_retry": "call retry() once in a run",
}


class Heard(NamedTuple):
    """What an answer means: a rule that stops this run, and rules that would have."""

    stop: TripNote | None
    warned: Sequence[TripNote]


def entry(
    execution: Execution,
    lease_ms: int,
    *,
    max_paid: int,
    again: bool = False,
    after_paid: bool = False,
    duplicates: Sequence[Verdict] = (),
    aftermath: bool = False,
) -> Enter:
    """The move that enters a run. ``duplicates`` are the verdicts about other runs of the task that keep this one from
    running, out of `done` and `running`. A run ``again`` is no further task of the tree. One ``after_paid`` follows a
    run that cost money: only those are retries that a retry budget counts, since what a provider's outage makes of
    a task costs nothing. The ``aftermath`` of a stopped task, its errbacks, runs in a tripped tree."""
    policy = execution.policy
    task, tree, name = execution.trip_names
    return Enter(
        execution.key,
        execution.run_id,
        name,
        lease_ms,
        trips=(task, name) if aftermath else (task, tree, name),
        tallies=() if aftermath else _tallies(execution, counts=not again),
        max_paid=max_paid,
        max_lost=policy.max_redeliveries,
        breaker=policy.breaker,
        retry=policy.retry_budget,
        is_retry=after_paid,
        warn_only=_watched(policy.enforced, tuple(duplicates)),
    )


@lru_cache(1024)
def _watched(enforced: frozenset[str], duplicates: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """The verdicts that stop nothing. Where nothing is enforced, others' trips do not stop either."""
    watched: list[Verdict] = [
        verdict for verdict, rule in _RULES.items() if rule not in enforced and verdict != "tripped"
    ]
    watched += [verdict for verdict in _DUPLICATES if verdict not in duplicates]
    return (*watched,) if enforced else (*watched, "tripped")


def _tallies(execution: Execution, *, counts: bool) -> tuple[Tally, ...]:
    """The tasks of the tree. A retry is not one more."""
    limit = execution.policy.max_tree_tasks
    if limit is None:
        return ()
    return (Tally(f"tree:{execution.tree_id}", "tasks", limit, KEEP_TRIPS_MS, int(counts)),)


def hear(execution: Execution, caller: Caller, move: Enter, entered: Entered) -> Heard:
    """Take in the store's answer to :func:`entry`: `done` and `running` are the asker's to deal with."""
    execution.entered = entered.verdict == "go"
    execution.attempts = entered.paid
    warned = [_note(execution, caller, move, entered, v, "warned") for v in entered.warned if v not in _DUPLICATES]
    if entered.verdict == "go" or entered.verdict in _DUPLICATES:
        return Heard(None, warned)
    return Heard(_note(execution, caller, move, entered, entered.verdict, "tripped"), warned)


def trip_until(note: TripNote) -> int | None:
    """Until when the trip that a note tells of has to be set; None for what ends by itself."""
    return None if note.rule in _BY_THEMSELVES else note.at + KEEP_TRIPS_MS


def tripped(
    execution: Execution,
    caller: Caller,
    rule: str,
    *,
    limit: int,
    seen: int,
    at: int,
    unit: str,
    scope: Literal["task", "tree", "name"] = "task",
    kind: Literal["tripped", "warned"] = "tripped",
) -> TripNote:
    """The note that a rule has stopped, or would have stopped, what an execution belongs to."""
    return TripNote(
        scope,
        execution.trip_names[_SCOPES.index(scope)],
        rule,
        limit,
        seen,
        at,
        unit,
        kind,
        caller.org,
        caller.team or UNATTRIBUTED,
        caller.env or UNATTRIBUTED,
        caller.feature or UNATTRIBUTED,
        execution.name,
        execution.task_id,
        execution.tree_id,
        execution.spent_nano,
        _ADVICE.get(rule, "") if kind == "warned" else "",
    )


def _scope_of(name: str) -> Literal["task", "tree", "name"]:
    return next(scope for scope in _SCOPES if name.startswith(scope))


def _note(
    execution: Execution,
    caller: Caller,
    move: Enter,
    entered: Entered,
    verdict: Verdict,
    kind: Literal["tripped", "warned"],
) -> TripNote:
    scope: Literal["task", "tree", "name"]
    match verdict:
        case "paid":
            scope, limit, seen, unit = "task", move.max_paid, entered.paid, "paid attempts"
        case "lost":
            scope, limit, seen, unit = "task", move.max_lost, entered.lost, "lost runs"
        case "tally":
            limit = move.tallies[entered.index].limit
            scope, seen, unit = "tree", limit + 1, "tasks"
        case "breaker":
            limit = move.breaker.failures if move.breaker else 0
            scope, seen, unit = "name", limit, "paid failures"
        case "retry_budget":
            limit = move.retry.floor if move.retry else 0
            scope, seen, unit = "name", limit + 1, "retries a minute"
        case _:
            scope = _scope_of(move.trips[entered.index] if entered.verdict == verdict else execution.key)
            limit, seen, unit = 1, 1, "trips"
    return tripped(
        execution,
        caller,
        _RULES[verdict],
        limit=limit or 0,
        seen=seen,
        at=entered.now,
        unit=unit,
        scope=scope,
        kind=kind,
    )
