"""The moves of the worker guard: trips, and runs that enter, pay and leave. What they change is in
:mod:`~llmguard.core.executions`, :mod:`~llmguard.core.breakers` and :mod:`~llmguard.core.tallies`."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.core import tallies
from llmguard.core.breakers import Breaker
from llmguard.core.executions import Runs
from llmguard.core.leases import State
from llmguard.core.moves import Answer, Done, Trip, Untrip
from llmguard.core.runs import KEEP_RUNS_MS, Enter, Entered, Leave, Paid, Peek, Seen, Standing, Verdict


def trip(state: State, move: Trip, now: int) -> Answer:
    if state.tripped(move.name, now):
        return Done(now, False)
    state.trips[move.name] = move.until
    return Done(now, True)


def untrip(state: State, move: Untrip, now: int) -> Answer:
    tripped = state.tripped(move.name, now)
    for table in (state.trips, state.scopes, state.runs, state.breakers):
        table.pop(move.name, None)
    return Done(now, tripped)


def enter(state: State, move: Enter, now: int) -> Answer:
    runs, breaker = _runs(state, move.key, now), _breaker(state, move.name, now)
    if move.run_id in runs.runs:
        return _entered(state, move, runs, now)
    opened = move.breaker is not None and breaker.opens(move.breaker, now)
    if opened:
        _keep(state, move.name, breaker, now)
    warned: list[Verdict] = []
    for verdict, index in _objections(state, move, runs, breaker, now):
        if verdict not in move.warn_only:
            counts = (runs.paid(now), runs.started, runs.lost(now), runs.running(now))
            return Entered(now, verdict, index, *counts, opened, (), tuple(warned))
        warned.append(verdict)
    runs.enter(move.run_id, now + move.lease_ms, now)
    _remember(state, move.key, runs, now)
    tallies.add(state.scopes, move.tallies, now)
    breaker.enter(move.run_id, is_retry=move.is_retry, tries=move.breaker is not None, now=now)
    _keep(state, move.name, breaker, now)
    return _entered(state, move, runs, now, opened, tuple(warned))


def _objections(state: State, move: Enter, runs: Runs, breaker: Breaker, now: int) -> Iterator[tuple[Verdict, int]]:
    """Everything that speaks against a run, in the order in which it is told."""
    tripped = next((index for index, name in enumerate(move.trips) if state.tripped(name, now)), None)
    if tripped is not None:
        yield "tripped", tripped
    if runs.done:
        yield "done", 0
    if runs.running(now):
        yield "running", 0
    if move.max_paid is not None and runs.paid(now) >= move.max_paid:
        yield "paid", 0
    if move.max_lost is not None and runs.lost(now) > move.max_lost:
        yield "lost", 0
    over = tallies.over(state.scopes, move.tallies, now)
    if over is not None:
        yield "tally", over
    if move.breaker is not None and breaker.blocks(now):
        yield "breaker", 0
    if move.retry is not None and move.is_retry and not breaker.spares(move.retry, now):
        yield "retry_budget", 0


def _entered(
    state: State, move: Enter, runs: Runs, now: int, opened: bool = False, warned: tuple[Verdict, ...] = ()
) -> Entered:
    counts = (runs.paid(now), runs.started, runs.lost(now), runs.running(now))
    return Entered(now, "go", 0, *counts, opened, tallies.counts(state.scopes, move.tallies, now), warned)


def paid(state: State, move: Paid, now: int) -> Answer:
    runs = _runs(state, move.key, now)
    changed = not runs.knows_end(move.run_id) and runs.pay(move.run_id, now)
    if changed:
        _remember(state, move.key, runs, now)
    return Done(now, changed)


def leave(state: State, move: Leave, now: int) -> Answer:
    runs = _runs(state, move.key, now)
    if runs.knows_end(move.run_id):
        return Done(now, False)
    cost = runs.leave(move.run_id, succeeded=move.succeeded, paid=move.paid, done=move.done)
    _remember(state, move.key, runs, now)
    breaker = _breaker(state, move.name, now)
    breaker.leave(move.run_id, succeeded=move.succeeded, cost=cost, now=now)
    _keep(state, move.name, breaker, now)
    return Done(now, True)


def renew(state: State, runs: tuple[tuple[str, str], ...], lease_ms: int, now: int) -> None:
    """Push the owner leases of runs; the rids of a renewal are the lease table's."""
    for key, run_id in runs:
        known = _runs(state, key, now)
        if not known.knows_end(run_id):
            known.renew(run_id, now + lease_ms, now)
            _remember(state, key, known, now)


def peek(state: State, move: Peek, now: int) -> Answer:
    return Seen(now, tuple([_standing(state, name, now) for name in move.names]))


def _standing(state: State, name: str, now: int) -> Standing:
    scope, runs, breaker = state.scopes.get(name), _runs(state, name, now), _breaker(state, name, now)
    return Standing(
        state.trips[name] if state.tripped(name, now) else None,
        tuple(sorted(scope.counts.items())) if scope and now < scope.until else (),
        runs.paid(now),
        runs.started,
        runs.lost(now),
        runs.running(now),
        runs.done,
        breaker.open_until or None,
        *breaker.endings.sums(now),
    )


def _runs(state: State, key: str, now: int) -> Runs:
    runs = state.runs.get(key)
    return runs if runs is not None and now < runs.until else Runs()


def _breaker(state: State, name: str, now: int) -> Breaker:
    breaker = state.breakers.get(name)
    return breaker if breaker is not None and now < breaker.until else Breaker()


def _remember(state: State, key: str, runs: Runs, now: int) -> None:
    runs.until = now + KEEP_RUNS_MS
    state.runs[key] = runs


def _keep(state: State, name: str, breaker: Breaker, now: int) -> None:
    breaker.keep(now)
    state.breakers[name] = breaker
