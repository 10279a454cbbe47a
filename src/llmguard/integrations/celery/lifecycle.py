"""What a task's body may do: asked before it runs, told when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from billiard import current_process
from celery.app.task import Context, Task
from celery.exceptions import Ignore
from celery.signals import before_task_publish, task_postrun, task_retry

from llmguard.core.runs import Peek, Seen
from llmguard.errors import RunawayTaskAborted, StoreUnavailable, TaskAborted
from llmguard.integrations.celery import abort, delivery, duplicates
from llmguard.integrations.celery.attempts import AFTERMATH, Attempt
from llmguard.integrations.celery.owners import owner
from llmguard.integrations.celery.stuck import Body, watch

T = TypeVar("T")

_UID: Final = "llmguard.lifecycle"


def connect() -> None:
    """Listen to what Celery says of publishing and ending tasks. Again changes nothing."""
    before_task_publish.connect(_publishing, weak=False, dispatch_uid=_UID)
    task_postrun.connect(_ended, weak=False, dispatch_uid=_UID)
    task_retry.connect(_retried, weak=False, dispatch_uid=_UID)


def run(task: Task, body: Callable[[], T]) -> T:
    """Run the body of one delivered task. :func:`llmguard.integrations.celery.delivery.of` says what is known of the
    delivery: caller, execution, guard. ``body`` runs in a context of its own, with the caller in place.

    Raises what the body raises, and RunawayTaskAborted (or Reject) for a task that is stopped; Ignore for a message
    that has nothing to say any more.
    """
    found = delivery.of(task)
    if delivery.plumbing(found.execution.name) or found.execution.policy.mode == "off":
        return body()
    attempt = found.attempt = Attempt(task, found)
    _begin(attempt)
    watched = _watched(attempt)
    try:
        try:
            result = body()
        finally:
            _over(watched)
    except BaseException as error:
        _over(watched)  # an abort from outside may have interrupted the first
        if not abort.stopped(attempt, error):
            raise
        raise _end(attempt, error) from error
    if attempt.execution.aborted:
        raise _end(attempt, None)
    return result


def retry(task: Task, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Answer the body's call of ``task.retry(*args, **kwargs)``; ``original`` is the bound method.

    Raises TaskAborted where the task may not be run again.
    """
    attempt = delivery.of(task).attempt
    if attempt is not None:
        if isinstance(kwargs.get("max_retries"), int):
            attempt.allowed = kwargs["max_retries"]
        attempt.may_retry()
    return original(*args, **kwargs)


def _begin(attempt: Attempt) -> None:
    """Ask whether the body may run; raise what ends the message where it may not."""
    policy, execution = attempt.policy, attempt.execution
    if policy.max_depth is not None and execution.depth > policy.max_depth and not attempt.aftermath:
        what = {"limit": policy.max_depth, "seen": execution.depth, "unit": "tasks deep", "scope": "tree"}
        if attempt.broke("max_depth", **what):
            raise abort.end(attempt, execution.trip)
    try:
        answer = attempt.enter()
    except StoreUnavailable as error:
        if policy.on_unavailable == "deny":
            raise duplicates.postpone(attempt) from error
        execution.entered = True  # as far as this process is concerned: the store hears of it when it is back
        return
    if answer is None:
        return
    entered, heard = answer
    if entered.verdict == "running":
        raise duplicates.put_off(attempt)
    duplicates.arrived(attempt)
    if entered.verdict == "done":
        attempt.put_off()
        raise Ignore(f"{execution.task_id} has been run")
    if heard.stop is not None:
        attempt.trip(heard.stop, first=entered.opened)
        raise abort.end(attempt, heard.stop)


def _watched(attempt: Attempt) -> Body:
    policy, execution = attempt.policy, attempt.execution
    body = Body(
        execution,
        owner(),
        entered=attempt.begin_renewing,
        overdue=partial(_overdue, attempt),
        limit=None if policy.max_runtime is None else policy.max_runtime / 1000,
        alone=_alone(attempt.request),
    )
    watch().begin(body)
    return body


def _over(body: Body) -> None:
    """The body has ended, by itself or by an abort from outside. Any number of times."""
    body.execution.ended = True
    watch().end(body)
    body.owner.release()


def _overdue(attempt: Attempt) -> None:
    """A body has run for too long: its next call hears of it, or `checkpoint()`. One that makes none costs nothing."""
    seconds = (attempt.policy.max_runtime or 0) // 1000
    attempt.broke("max_runtime", limit=seconds, seen=seconds, unit="seconds")


def _alone(request: Context) -> bool:
    """Whether this process runs this task and nothing else: a child of a prefork pool."""
    return not request.is_eager and bool(current_process().daemon)


def _end(attempt: Attempt, error: BaseException | None) -> Exception:
    said = str(error) if isinstance(error, TaskAborted) else ""
    return abort.end(attempt, attempt.execution.trip, f"did not heed its refusals ({said or 'it went on'})")


def _publishing(headers: dict[str, Any], **_: Any) -> None:
    around = delivery.enclosing()
    attempt = None if around is None else around.attempt
    if around is None or attempt is None:
        return
    key = delivery.key_of(headers.get("id", ""), headers.get("replaced_task_nesting"))
    if around.running and key == around.execution.key:
        attempt.publishes(headers)
    elif not around.running and (around.execution.trip is not None or around.execution.aborted):
        headers[AFTERMATH] = 1


def _ended(task: Task, state: str | None, retval: object, **_: Any) -> None:
    found = delivery.on(task.request_stack.top)
    if found is not None and found.attempt is not None:
        found.attempt.ends(state, retval)


def _retried(sender: Task, request: Context, **_: Any) -> None:
    """Celery has stored RETRY; where another run was stopped meanwhile, that is not how the task ended."""
    found = delivery.on(request)
    if found is None or found.attempt is None or not found.execution.entered:
        return
    execution = found.execution
    try:
        seen = found.attempt.service.ask(Peek((execution.key,)))
    except StoreUnavailable:
        return
    assert isinstance(seen, Seen)
    if seen.standings[0].until is not None and seen.standings[0].done:
        error = RunawayTaskAborted(f"{execution.name}[{execution.task_id}] was stopped in another run")
        abort.restore(sender, request, error)
