"""One run of a task and the quota store: it asks for its entry, pays, publishes its retry, and leaves."""

from __future__ import annotations

from typing import Any, Final, Literal

from celery import states
from celery.app.task import Context, Task
from celery.exceptions import Reject

from llmguard.core.entries import Heard, entry, hear, trip_until, tripped
from llmguard.core.moves import Done, Move, Trip
from llmguard.core.notes import TripNote
from llmguard.core.runs import Entered, Leave, Verdict
from llmguard.errors import StoreUnavailable, TaskAborted
from llmguard.integrations.celery.delivery import Delivery
from llmguard.runtime.ids import now_ms
from llmguard.runtime.process import ProcessService
from llmguard.runtime.upkeep import RUN_LEASE_MS

AFTERMATH: Final = "x-llmguard-aftermath"
"""Header of a message that a stopped task leaves behind, its errbacks: they run although their tree is tripped."""

RETRIES: Final = "x-llmguard-max-retries"
"""Header of a retry whose `retry(max_retries=…)` allowed another number than the task does."""

PAID: Final = "x-llmguard-paid"
"""Header of a retry: the run before it has cost money."""

COPY: Final = "x-llmguard-copy"
"""Header of a message that was put off; its value is the number of retries that the message had."""

_MINUTE_MS: Final = 60_000
_DUPLICATES: Final[tuple[Verdict, ...]] = ("done", "running")


class Attempt:
    """One run of one task, as its process knows it. ``published`` counts messages by which it asked to be run again."""

    def __init__(self, task: Task, delivery: Delivery) -> None:
        self.task = task
        self.request: Context = task.request_stack.top
        self.delivery = delivery
        self.execution = delivery.execution
        self.policy = delivery.execution.policy
        self.published = 0
        self.allowed: int | None = self._header(RETRIES)
        self._left = False
        self._paid_then = False

    @property
    def service(self) -> ProcessService:
        """The guard at work in this process; begun by the first task that needs it."""
        return self.delivery.installation.guard.process()

    # ------------------------------------------------------------------ what its message says

    @property
    def aftermath(self) -> bool:
        """Whether this is what a stopped task left behind."""
        return self._header(AFTERMATH) is not None

    @property
    def copy(self) -> bool:
        """Whether this message was put off."""
        return self._header(COPY) == (self.request.retries or 0)

    def _header(self, name: str) -> int | None:
        value: object = self.request.__dict__.get(name)
        return value if isinstance(value, int) else None

    @property
    def max_paid(self) -> int:
        """How often the task may be paid for: as often as it says that it may be retried, wherever it says so."""
        retries = self.task.max_retries
        said = (self.allowed, (getattr(self.task, "retry_kwargs", None) or {}).get("max_retries"))
        if retries is not None:
            retries = max([retries, *(number for number in said if number is not None)])
        return self.policy.paid_attempts(retries)

    # ------------------------------------------------------------------ the beginning

    def enter(self) -> tuple[Entered, Heard] | None:
        """Ask whether the body may run; None for a task that asks with its first call. Raises StoreUnavailable."""
        first = self._asks_first
        move = entry(
            self.execution,
            RUN_LEASE_MS,
            max_paid=self.max_paid,
            again=bool(self.request.retries),
            after_paid=self._header(PAID) is not None,
            duplicates=self._duplicates() if first else (),
            aftermath=self.aftermath,
        )
        if not first:
            self.execution.entrance = move
            return None
        entered = self.service.ask(move)
        assert isinstance(entered, Entered)
        heard = hear(self.execution, self.delivery.caller, move, entered)
        for note in heard.warned:
            self._warn(note)
        return entered, heard

    @property
    def _asks_first(self) -> bool:
        """Whether the store is asked before the body: also for a task that asks later as a rule, when its last run may
        have been lost. Should its owner have died just now, only waiting tells."""
        survivor = self.task.retry_on_worker_lost and self.request.retries
        return bool(self.policy.asks_first or self._redelivered or self.copy or survivor)

    @property
    def _redelivered(self) -> bool:
        return bool((self.request.delivery_info or {}).get("redelivered"))

    def _duplicates(self) -> tuple[Verdict, ...]:
        """Which other runs of the task speak against this one. A message that was never delivered before, under an id
        that has been used, is meant to run again."""
        if self.policy.duplicates == "run" or self.request.is_eager:
            return ()
        return _DUPLICATES if self._redelivered or self.request.retries or self.copy else ("running",)

    # ------------------------------------------------------------------ stopping

    def trip(self, note: TripNote, *, first: bool | None = None) -> None:
        """A rule has stopped this run: tell the store, and the operator if nobody did so before. ``first`` says so for
        what the store has decided itself."""
        if self.execution.trip is None:
            self.execution.trip = note
        until = trip_until(note)
        if until is not None:
            first = self._changed(Trip(note.name, until))
        elif note.rule == "retry_budget":
            first = self._changed(Trip(f"retries:{note.name}", note.at + _MINUTE_MS))
        if first:
            self.service.notices.note(note)

    def broke(self, rule: str, **what: Any) -> bool:
        """The body has broken a rule: it is stopped where that is enforced (True), else warned about."""
        enforced = rule in self.policy.enforced
        kind: Literal["tripped", "warned"] = "tripped" if enforced else "warned"
        note = tripped(self.execution, self.delivery.caller, rule, at=now_ms(), kind=kind, **what)
        if not enforced:
            self._warn(note)
            return False
        self.trip(note)
        return True

    def _warn(self, note: TripNote) -> None:
        """Once for each rule in a run."""
        if note.rule not in self.execution.warned:
            self.execution.warned.add(note.rule)
            self.service.notices.note(note)

    def aborted(self, why: str) -> TaskAborted:
        """What ends the body now."""
        self.execution.aborted = True
        return TaskAborted(f"{self.execution.name}[{self.execution.task_id}]: {why}")

    # ------------------------------------------------------------------ a retry

    def may_retry(self) -> None:
        """The body asks to be run again. Raises TaskAborted where it has been stopped."""
        if self.execution.trip is not None:
            raise self.aborted("it has been stopped and is not retried")

    def publishes(self, headers: dict[str, Any]) -> None:
        """The message of a further run is about to be published. Raises TaskAborted where it must not be.

        The run leaves before it: the next one may begin at once, and is no duplicate.
        """
        self.may_retry()
        self._may_cost_more()
        self.published += 1
        if self.published > 1 and self.broke("double_retry", limit=1, seen=self.published, unit="retries"):
            raise self.aborted("it has been retried already")
        self._mark(headers)
        if not self.execution.entered or self._left:
            return
        if not self._leave(succeeded=False, done=False, wait=True) and self.policy.enforced:
            raise self.aborted("it has ended elsewhere and is not retried")

    def _may_cost_more(self) -> None:
        """Raise TaskAborted where this run was the last that could be paid for."""
        attempts, limit = self.execution.attempts + self.execution.paid, self.max_paid
        broke = self.execution.paid and attempts >= limit
        if broke and self.broke("max_paid_attempts", limit=limit, seen=attempts, unit="paid attempts"):
            raise self.aborted("it has been paid for too often and is not retried")

    def _mark(self, headers: dict[str, Any]) -> None:
        """Say in the message of the next run what that one has to know of this one."""
        if self.allowed is not None:
            headers[RETRIES] = self.allowed
        if self.execution.paid:
            headers[PAID] = 1
        else:
            headers.pop(PAID, None)

    # ------------------------------------------------------------------ the end

    def begin_renewing(self) -> None:
        """The store knows of this run, and must not take it for lost."""
        self.service.runs.add(self.execution)

    def ends(self, state: str | None, outcome: object) -> None:
        """Celery has stored how the run ended."""
        if self.execution.entered:
            self.service.runs.discard(self.execution)
        succeeded = state == states.SUCCESS
        if self._left:
            self._paid_late(succeeded=succeeded)
            return
        if not self.execution.entered:
            return
        again = isinstance(outcome, Reject) and outcome.requeue
        done = state in _LAST and not again and not self.published
        self._leave(succeeded=succeeded, done=done, wait=not done)

    def claim_end(self) -> bool:
        """This run ends its task, for good. False where another one has done so before."""
        self.execution.ended = True
        if self.execution.entered and not self._left:
            return self._leave(succeeded=False, done=True, wait=True)
        self._left, self._paid_then = True, True
        return self._changed(self._end(":end", succeeded=False, paid=False, done=True))

    def put_off(self) -> None:
        """This message is not run now, and nothing was entered."""
        self._left, self._paid_then = True, True

    def _leave(self, *, succeeded: bool, done: bool, wait: bool) -> bool:
        self._left, self._paid_then = True, self.execution.paid
        move = self._end("", succeeded=succeeded, paid=self.execution.paid, done=done)
        if wait:
            return self._changed(move)
        self.service.tell((move,))
        return True

    def _paid_late(self, *, succeeded: bool) -> None:
        """A run that went on after its retry was published has cost money only then."""
        if self.execution.paid and not self._paid_then:
            self.service.tell((self._end(":late", succeeded=succeeded, paid=True, done=False),))

    def _end(self, suffix: str, *, succeeded: bool, paid: bool, done: bool) -> Leave:
        execution = self.execution
        return Leave(execution.key, execution.run_id + suffix, f"name:{execution.name}", succeeded, paid, done)

    def _changed(self, move: Move) -> bool:
        """Make a move and learn whether it changed anything; while the store is away or cold it is owed, and is taken
        to have."""
        try:
            answer = self.service.ask(move)
        except StoreUnavailable:
            answer = None
        if isinstance(answer, Done):
            return answer.changed
        self.service.tell((move,))
        return True


_LAST: Final = frozenset({states.SUCCESS, states.FAILURE, states.IGNORED, states.REJECTED})
