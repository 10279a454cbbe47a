"""One run of a task and the quota store: it asks for its entry, pays, publishes its retry, and leaves."""

from __future__ import annotations

from typing import Any, Final, Literal

from billiard import current_process
from celery import states
from celery.exceptions import Reject

from llmguard.core.call import Caller
from llmguard.core.entries import Heard, entry, hear, trip_until, tripped
from llmguard.core.moves import Done, Move, Trip
from llmguard.core.notes import TripNote
from llmguard.core.runaway import RETRIES, Execution
from llmguard.core.runs import Enter, Entered, Leave, Verdict
from llmguard.errors import StoreUnavailable, TaskAborted
from llmguard.integrations.celery import marks
from llmguard.integrations.celery.delivery import Delivery
from llmguard.integrations.celery.stuck import Body, watch
from llmguard.runtime.ids import now_ms
from llmguard.runtime.process import ProcessService
from llmguard.runtime.upkeep import RUN_LEASE_MS

_MINUTE_MS: Final = 60_000
_DUPLICATES: Final[tuple[Verdict, ...]] = ("done", "running")


class Attempt:
    """One run of one task, as its process knows it. ``published`` counts messages by which it asked to be run again."""

    def __init__(self, delivery: Delivery, execution: Execution, caller: Caller) -> None:
        self.delivery = delivery
        self.execution = execution
        self.caller = caller
        self.task = delivery.task
        self.request = delivery.request
        self.policy = delivery.policy
        self.allowed = delivery.marks.max_retries
        self.published = 0
        self._body: Body | None = None
        self._left = False
        self._paid_then = False
        if delivery.guarded and not delivery.asks_first:
            execution.entrance = self._entry(())

    @property
    def service(self) -> ProcessService:
        """The guard at work in this process; begun by the first task that needs it."""
        return self.delivery.installation.guard.process()

    @property
    def max_paid(self) -> int:
        """How often the task may be paid for: as often as it says that it may be retried, wherever it says so."""
        retries = self.task.max_retries
        said = (self.allowed, (getattr(self.task, "retry_kwargs", None) or {}).get("max_retries"))
        if retries is not None:
            retries = max([retries, *(number for number in said if number is not None)])
        return self.policy.paid_attempts(retries)

    # ------------------------------------------------------------------ the beginning

    def made(self) -> None:
        """This is its delivery's attempt, out of several that may have been begun. Look after its body from here on
        where nothing is asked before that."""
        self.execution.ended = self.delivery.ended
        if not self.delivery.guarded:
            return
        self._check_depth()
        if not self.delivery.held:
            self.begin_watch()

    def _check_depth(self) -> None:
        limit, depth = self.policy.max_depth, self.execution.depth
        if limit is not None and depth > limit and not self.delivery.marks.aftermath:
            self.broke("max_depth", limit=limit, seen=depth, unit="tasks deep", scope="tree")

    def enter(self) -> tuple[Entered, Heard]:
        """Ask whether the body may run. Raises StoreUnavailable."""
        move = self._entry(self._duplicates())
        entered = self.service.ask(move)
        assert isinstance(entered, Entered)
        heard = hear(self.execution, self.caller, move, entered)
        for note in heard.warned:
            self._warn(note)
        return entered, heard

    def _entry(self, duplicates: tuple[Verdict, ...]) -> Enter:
        return entry(
            self.execution,
            RUN_LEASE_MS,
            max_paid=self.max_paid,
            again=bool(self.request.retries),
            after_paid=self.delivery.marks.paid,
            duplicates=duplicates,
            aftermath=self.delivery.marks.aftermath,
        )

    def _duplicates(self) -> tuple[Verdict, ...]:
        """Which other runs of the task speak against this one. A message that was never delivered before, under an id
        that has been used, is meant to run again."""
        if self.policy.duplicates == "run" or self.request.is_eager:
            return ()
        again = self.delivery.redelivered or self.request.retries or self.delivery.copy
        return _DUPLICATES if again else ("running",)

    # ------------------------------------------------------------------ while the body runs

    def begin_watch(self) -> None:
        """Have the body looked after: it may run for too long, or not hear that it is to stop."""
        limit = self.policy.max_runtime
        self._body = Body(
            self.execution,
            self.delivery.owner,
            entered=self._begin_renewing,
            overdue=self._overdue,
            due=None if limit is None else self.delivery.began + limit / 1000,
            alone=not self.request.is_eager and bool(current_process().daemon),  # a child of a prefork pool
        )
        watch().begin(self._body)
        if self.delivery.ended:
            self.end_watch()

    def end_watch(self) -> None:
        """The body is over. Any number of times."""
        if self._body is not None:
            watch().end(self._body)
            self.delivery.owner.release()

    def _begin_renewing(self) -> None:
        """The store knows of this run, and must not take it for lost."""
        self.service.runs.add(self.execution)

    def _overdue(self) -> None:
        """Its next call hears of it, or `checkpoint()`. A body that makes none costs nothing."""
        seconds = (self.policy.max_runtime or 0) // 1000
        self.broke("max_runtime", limit=seconds, seen=seconds, unit="seconds")

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
            first = self._changed(Trip(RETRIES.format(note.name), note.at + _MINUTE_MS))
        if first:
            self.service.notices.note(note)

    def broke(self, rule: str, **what: Any) -> bool:
        """The body has broken a rule: it is stopped where that is enforced (True), else warned about."""
        enforced = rule in self.policy.enforced
        kind: Literal["tripped", "warned"] = "tripped" if enforced else "warned"
        note = tripped(self.execution, self.caller, rule, at=now_ms(), kind=kind, **what)
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

    @property
    def stopped(self) -> bool:
        """Whether a rule has stopped this run, or its body was told so."""
        return self.execution.trip is not None or self.execution.aborted

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
        said = self.delivery.marks._replace(max_retries=self.allowed, paid=self.execution.paid, copy=None)
        marks.write(headers, self.execution.task_id, said, self.delivery.installation.signer)

    # ------------------------------------------------------------------ the end

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
