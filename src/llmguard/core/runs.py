"""Moves of the worker guard: task bodies that enter, pay and leave, and counters that stop what repeats itself.

Sent in the same batches as the moves of :mod:`llmguard.core.moves`; what they do is written in
:mod:`llmguard.core.executions`, :mod:`llmguard.core.breakers` and :mod:`llmguard.core.tallies`. They need no ledger: a
store takes them while it is cold, and keeps what they counted when its sums are loaded anew.

One *run* is one body of a task that runs in one process. All runs of a task, first and repeated, share its ``key``.
Names are shared, too: the trip, the tallies, the runs and the breaker of one name are lifted by one `Untrip`. By
convention names begin with what they stand for: ``task:<key>``, ``tree:<id>``, ``name:<task name>``, ``feature:…``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

KEEP_RUNS_MS = 24 * 3_600_000
"""How long the runs of a task are remembered after the last of them did anything: longer than a broker waits before it
delivers again. Attempts that lie further apart are no runaway."""

Verdict = Literal["go", "tripped", "done", "running", "paid", "lost", "tally", "breaker", "retry_budget"]


@dataclass(slots=True, eq=False)
class Tally:
    """Count ``add`` under ``name`` in the counters of ``scope``; with a ``limit`` above 0 never past it.

    All counters of a scope expire together, ``keep_ms`` after the first of them was begun: a fixed window. A pair of
    scope and name occurs once in a move.
    """

    scope: str
    name: str
    limit: int
    keep_ms: int
    add: int = 1


class BreakerTerms(NamedTuple):
    """A breaker opens at ``failures`` paid failures that are ``ratio_ppm`` or more of the runs in its window."""

    failures: int
    ratio_ppm: int
    cooldown_ms: int


class RetryTerms(NamedTuple):
    """Retries in the last minute may be ``ratio_ppm`` of the first runs in it, and ``floor`` more."""

    ratio_ppm: int
    floor: int


@dataclass(slots=True, eq=False)
class Enter:
    """A task body is about to run: count it and take its owner lease, or say why it should not run.

    ``key`` names the task whose runs are counted together, ``run_id`` this run (a repeated one hears `go` again, and is
    counted once), ``name`` the breaker and the retry window of its kind. ``max_paid``, ``max_lost``, ``breaker`` and
    ``retry`` of None stop nothing. ``warn_only`` are verdicts that are reported and do not stop.
    """

    key: str
    run_id: str
    name: str
    lease_ms: int
    trips: tuple[str, ...] = ()
    tallies: tuple[Tally, ...] = ()
    max_paid: int | None = None
    max_lost: int | None = None
    breaker: BreakerTerms | None = None
    retry: RetryTerms | None = None
    is_retry: bool = False
    warn_only: tuple[Verdict, ...] = ()


@dataclass(slots=True, eq=False)
class Entered:
    """Whether the body may run, and what was counted of its key.

    ``verdict`` is `go`, or the first that applies of `tripped`, `done` (a run of the key has finished it: a duplicate),
    `running` (another run is live), `paid` (``max_paid`` attempts were paid for), `lost` (more than ``max_lost`` runs
    ended without a word), `tally`, `breaker`, `retry_budget`. ``index`` is the trip or tally that said no. ``paid``
    counts attempts that cost money and did not succeed, ``started`` all runs, ``lost`` those whose lease ran out,
    ``running`` live ones; after a `go` this run is among them. ``opened`` marks the one answer with which a breaker
    opened. ``tallied`` are the counts after a `go`, ``warned`` the verdicts that would have stopped it.
    """

    now: int
    verdict: Verdict
    index: int
    paid: int
    started: int
    lost: int
    running: int
    opened: bool = False
    tallied: tuple[int, ...] = ()
    warned: tuple[Verdict, ...] = ()


@dataclass(slots=True, eq=False)
class Leave:
    """A run is over. Told again it changes nothing.

    ``paid`` says that a billed or ambiguous call was made in it: without success that is a paid attempt, and a failure
    in the eyes of the breaker. (A failure that cost nothing, such as a provider's outage, opens no breaker.) ``done``
    says that the key needs no further run.
    """

    key: str
    run_id: str
    name: str
    succeeded: bool
    paid: bool
    done: bool


@dataclass(slots=True, eq=False)
class Paid:
    """A run has made its first billed or ambiguous call: known even if its process is killed now."""

    key: str
    run_id: str


@dataclass(slots=True, eq=False)
class Peek:
    """Read what the store knows of these names. The answer is :class:`Seen`."""

    names: tuple[str, ...]


class Standing(NamedTuple):
    """What the store knows of one name.

    ``until`` is when its trip ends (0: never, None: not tripped), ``counts`` are its tallies by name. ``paid``,
    ``started``, ``lost``, ``running`` and ``done`` speak of the runs of a key, ``open_until`` (None: closed),
    ``ended`` and ``failed`` of a breaker.
    """

    until: int | None
    counts: tuple[tuple[str, int], ...]
    paid: int
    started: int
    lost: int
    running: int
    done: bool
    open_until: int | None
    ended: int
    failed: int


@dataclass(slots=True, eq=False)
class Seen:
    """One standing for each name of a :class:`Peek`, in order."""

    now: int
    standings: tuple[Standing, ...]
