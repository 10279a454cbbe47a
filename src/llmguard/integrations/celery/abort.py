"""How a stopped task ends: once, as a failure that Celery stores and tells its errbacks of."""

from __future__ import annotations

import sys
from typing import Final

from celery import states
from celery.app.task import Context, Task
from celery.exceptions import Ignore, Reject

from llmguard.core.money import usd_string
from llmguard.core.notes import TripNote
from llmguard.errors import RunawayTaskAborted, TaskAborted
from llmguard.integrations.celery import dead_letters
from llmguard.integrations.celery.attempts import Attempt

_NEXT: Final = "once it is mended, `llmguard dlq requeue` runs it again"


def stopped(attempt: Attempt, error: BaseException) -> bool:
    """Whether what has left a body is a stopped run's end. Whatever leaves one is, save what ends the process or what
    gevent's time limits raise."""
    if isinstance(error, SystemExit | KeyboardInterrupt) or _is_gevent_timeout(error):
        return False
    return attempt.stopped or isinstance(error, TaskAborted)


def end(attempt: Attempt, note: TripNote | None, why: str = "") -> Exception:
    """End a task that was stopped, by a rule or because it did not hear (``why``). Returns what to raise: the failure,
    or Ignore where another run has reported it."""
    message = why if note is None else describe(note)
    error: Exception = RunawayTaskAborted(f"{attempt.execution.name}[{attempt.execution.task_id}] {message}; {_NEXT}")
    if not attempt.claim_end():
        restore(attempt.task, attempt.request, error)
        ignored: Exception = Ignore(f"{attempt.execution.task_id} has been stopped before")
        return ignored
    dead_letters.keep(attempt, "refusals" if note is None else note.rule, message)
    if attempt.policy.on_abort == "reject":
        error = Reject(error, requeue=False)
    return error


def describe(note: TripNote) -> str:
    """What stopped a task, as the end of a sentence that begins with its name."""
    if note.rule == "trip":
        return f"was stopped: its {note.scope} is tripped"
    if note.unit == "usd":
        return f"was stopped by {note.rule}: ${usd_string(note.seen)} of ${usd_string(note.limit)}"
    return f"was stopped by {note.rule}: {note.seen} of {note.limit} {note.unit}"


def restore(task: Task, request: Context, error: Exception) -> None:
    """The task failed; whatever a later delivery has stored since (STARTED, RETRY) is not how it ended."""
    if request.is_eager or task.ignore_result or not task.backend.persistent or task.backend.as_uri() == "disabled://":
        return
    if task.backend.get_state(request.id) not in states.READY_STATES:
        task.backend.store_result(request.id, error, states.FAILURE, request=request)


def _is_gevent_timeout(error: BaseException) -> bool:
    gevent = sys.modules.get("gevent")
    return gevent is not None and isinstance(error, gevent.Timeout)
