"""What a background task may do, and the run of one: the vocabulary of the runaway guard.

A policy names its *rules* by the options of `llm_task`: ``max_paid_attempts``, ``max_calls``, ``budget`` … A rule that
is :attr:`~TaskPolicy.enforced` trips and stops; one that is not only warns. Trips are named by what they stop:
``task:<id>:<nesting>`` (the key of a task), ``tree:<id>``, ``name:<task name>``. What is counted about it in the quota
store goes by the same name, so that lifting the trip is a fresh start.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from llmguard.core.notes import TripNote
from llmguard.core.runs import BreakerTerms, Enter, RetryTerms
from llmguard.core.watch import Watch

USD: Final = 10**9
"""Nano-USD in a dollar."""

FEWEST_ATTEMPTS: Final = 4
"""Paid attempts that every task has by default, whatever its own `max_retries`."""

KEEP_TRIPS_MS: Final = 2 * 86_400_000
"""How long the trip of a task or a tree stays: longer than any broker keeps a message in delivery."""

COPY: Final = "copy:{}"
"""What is held in the quota store, like a trip, while a copy of a task's message that was put off is on its way."""

RETRIES: Final = "retries:{}"
"""The same for a minute, once somebody was told that a task name's retry budget is spent."""


def names_of(trip: str) -> tuple[str, ...]:
    """A trip's own name and all that is held beside it: what a fresh start lifts."""
    return (trip, COPY.format(trip), RETRIES.format(trip))


RULES: Final = frozenset(
    {
        "max_paid_attempts",
        "max_redeliveries",
        "max_calls",
        "budget",
        "tree_budget",
        "max_tree_calls",
        "max_tree_tasks",
        "max_depth",
        "identical_prompts",
        "retry_budget",
        "breaker",
        "max_runtime",
        "double_retry",
    }
)
"""Every rule of a policy: the options that limit something, and `double_retry`, which is not to publish two retries of
one task in one execution."""

SAFE_RULES: Final = frozenset({"max_paid_attempts", "max_redeliveries", "identical_prompts"})
"""Rules that no healthy task can break: enforced for tasks without a policy of their own."""

Duplicates = Literal["defer", "ignore", "run"]
OnAbort = Literal["fail", "reject"]
OnUnavailable = Literal["local", "deny", "allow"]
Mode = Literal["enforce", "warn", "off"]


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries of all tasks of one name in a minute: ``ratio`` of the first runs in it, and ``floor_per_min`` more."""

    ratio: float = 0.2
    floor_per_min: int = 10


@dataclass(frozen=True, slots=True)
class Breaker:
    """Stop all tasks of one name after ``failures`` paid failures that are ``ratio`` or more of its runs, for
    ``cooldown`` (such as `15m`); then one canary decides."""

    failures: int = 20
    ratio: float = 0.8
    cooldown: str = "15m"


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """The options of `llm_task`, understood. The values here are those of a decorated task that names none.

    Money is nano-USD, times are milliseconds; None means no such rule, except for ``max_paid_attempts`` (see
    :meth:`paid_attempts`). ``asks_first`` says that the quota store is asked before the body; else it hears of a task
    with its first call. ``enforced`` are the rules that stop, ``chosen`` the options that somebody wrote.
    """

    team: str | None = None
    env: str | None = None
    feature: str | None = None
    max_paid_attempts: int | None = None
    max_redeliveries: int | None = 2
    max_calls: int | None = 500
    budget: int | None = 5 * USD
    tree_budget: int | None = 50 * USD
    max_tree_calls: int | None = 2_000
    max_tree_tasks: int | None = 1_000
    max_depth: int | None = 25
    identical_prompts: int | None = 6
    retry_budget: RetryTerms | None = RetryTerms(200_000, 10)  # noqa: RUF009  a NamedTuple: immutable
    breaker: BreakerTerms | None = BreakerTerms(20, 800_000, 900_000)  # noqa: RUF009  likewise
    duplicates: Duplicates = "defer"
    on_abort: OnAbort = "fail"
    on_unavailable: OnUnavailable = "local"
    max_runtime: int | None = 1_800_000
    mode: Mode = "enforce"
    asks_first: bool = True
    enforced: frozenset[str] = RULES
    chosen: frozenset[str] = frozenset()

    def paid_attempts(self, max_retries: int | None) -> int:
        """How often a task may be paid for without success. By default as often as the task itself allows retries, so
        that it is never stopped earlier, and four times at least; ``max_retries`` of None, for ever, counts as four."""
        if self.max_paid_attempts is not None:
            return self.max_paid_attempts
        return FEWEST_ATTEMPTS if max_retries is None else max(FEWEST_ATTEMPTS, max_retries + 1)


@dataclass(slots=True, eq=False)
class Execution:
    """One running body of one task in this process, shared by the threads and coroutines that it starts.

    ``key`` is what all runs of the task share and the name of its trip, ``run_id`` names this run. ``entrance`` is the
    move that the first call asks before anything else, for a task that was not asked for before its body; whoever asks
    it takes it away and passes the answer to :func:`llmguard.core.entries.hear`. ``entered`` says that the store knows
    of the run, ``attempts`` counts earlier runs that were paid for without success.

    ``calls`` counts calls that were let through, ``prompts`` how often each prompt was sent, by fingerprint,
    ``refusals`` those that no waiting mends, ``spent_nano`` what the calls cost. ``paid`` says that one of them was
    billed, or may have been. ``watch`` is what the guard puts on each of its calls, ``warned`` are the rules it was
    warned about.

    ``trip`` is what stopped it: set once, from any thread. ``aborted`` says that
    :class:`~llmguard.errors.TaskAborted` was raised in it, ``told`` are the coroutines (`asyncio.Task`) among those
    that it was raised in. ``ended`` says that the body is over.
    """

    policy: TaskPolicy
    name: str
    task_id: str
    key: str
    run_id: str
    tree_id: str
    depth: int = 0
    entrance: Enter | None = None
    entered: bool = False
    attempts: int = 0
    calls: int = 0
    refusals: int = 0
    spent_nano: int = 0
    paid: bool = False
    trip: TripNote | None = None
    aborted: bool = False
    told: set[Any] = field(default_factory=set)
    ended: bool = False
    warned: set[str] = field(default_factory=set)
    prompts: dict[int, int] = field(default_factory=dict)
    watch: Watch | None = None

    @property
    def trip_names(self) -> tuple[str, str, str]:
        """The trips that stop this run: its task's, its tree's, and that of its name."""
        return (self.key, f"tree:{self.tree_id}", f"name:{self.name}")

    def hear(self, stopped: Collection[str], now: int) -> None:
        """Take note of the first of its trips that is among ``stopped``, which somebody else has set."""
        for scope, name in zip(_SCOPES, self.trip_names, strict=True):
            if name in stopped and self.trip is None:
                known: dict[str, Any] = {"task": self.name, "task_id": self.task_id, "tree_id": self.tree_id}
                self.trip = TripNote(scope, name, "trip", 0, 0, now, **known)


_SCOPES: Final[tuple[Literal["task", "tree", "name"], ...]] = ("task", "tree", "name")
"""What the trips of an execution stop, in the order of :attr:`Execution.trip_names`."""
