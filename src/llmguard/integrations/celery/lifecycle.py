"""What a task's body may do: asked before it runs, told when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from celery.app.task import Context, Task
from celery.exceptions import Ignore
from celery.signals import before_task_publish, task_postrun, task_retry

from llmguard.core.runs import Peek, Seen
from llmguard.errors import RunawayTaskAborted, StoreUnavailable, TaskAborted
from llmguard.integrations.celery import abort, delivery, duplicates, marks
from llmguard.integrations.celery.attempts import Attempt
from llmguard.integrations.celery.delivery import Delivery
from llmguard.integrations.celery.marks import Marks

T = TypeVar("T")

_UID: Final = "llmguard.lifecycle"


def connect() -> None:
    """Listen to what Celery says of publishing and ending tasks. Again changes nothing."""
    before_task_publish.connect(_publishing, weak=False, dispatch_uid=_UID)
    task_postrun.connect(_ended, weak=False, dispatch_uid=_UID)
    task_retry.connect(_retried, weak=False, dispatch_uid=_UID)


def run(found: Delivery, body: Callable[[], T]) -> T:
    """Run the body of one delivered task. ``body`` runs in a context of its own, with the caller in place.

    Raises what the body raises, and RunawayTaskAborted (or Reject) for a task that is stopped; Ignore for a message
    that has nothing to say any more.
    """
    if not found.guarded:
        return body()
    if found.held:
        _begin(found.attempt)
    try:
        try:
            result = body()
        finally:
            _over(found)
    except BaseException as error:
        _over(found)  # an abort from outside may have interrupted the first
        if found.made is None or not abort.stopped(found.made, error):
            raise
        raise _end(found.made, error) from error
    if found.made is not None and found.made.execution.aborted:
        raise _end(found.made, None)
    return result


def retry(task: Task, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Answer the body's call of ``task.retry(*args, **kwargs)``; ``original`` is the bound method.

    Raises TaskAborted where the task may not be run again.
    """
    found = delivery.of(task)
    if found.guarded:
        if isinstance(kwargs.get("max_retries"), int):
            found.attempt.allowed = kwargs["max_retries"]
        found.attempt.may_retry()
    return original(*args, **kwargs)


def _begin(attempt: Attempt) -> None:
    """Decide whether the body may run; raise what ends the message where it may not."""
    if attempt.execution.trip is not None:
        raise abort.end(attempt, attempt.execution.trip)
    if attempt.delivery.asks_first:
        _ask(attempt)
    attempt.begin_watch()


def _ask(attempt: Attempt) -> None:
    policy, execution = attempt.policy, attempt.execution
    try:
        entered, heard = attempt.enter()
    except StoreUnavailable as error:
        if policy.on_unavailable == "deny":
            raise duplicates.postpone(attempt) from error
        execution.entered = True  # as far as this process is concerned: the store hears of it when it is back
        return
    if entered.verdict == "running":
        raise duplicates.put_off(attempt)
    duplicates.arrived(attempt)
    if entered.verdict == "done":
        attempt.put_off()
        raise Ignore(f"{execution.task_id} has been run")
    if heard.stop is not None:
        attempt.trip(heard.stop, first=entered.opened)
        raise abort.end(attempt, heard.stop)


def _over(found: Delivery) -> None:
    """The body has ended, by itself or by an abort from outside. Any number of times."""
    found.end()
    if found.made is not None:
        found.made.end_watch()


def _end(attempt: Attempt, error: BaseException | None) -> Exception:
    said = str(error) if isinstance(error, TaskAborted) else ""
    return abort.end(attempt, attempt.execution.trip, f"did not heed its refusals ({said or 'it went on'})")


def _publishing(headers: dict[str, Any], **_: Any) -> None:
    around = delivery.enclosing()
    if around is None or not around.guarded:
        return
    if around.running:
        task_id = headers.get("id", "")
        if delivery.key_of(task_id, headers.get("replaced_task_nesting")) == around.key:
            around.attempt.publishes(headers)
    elif around.made is not None and around.made.stopped:
        marks.write(headers, headers.get("id", ""), Marks(aftermath=True), around.installation.signer)


def _ended(task: Task, state: str | None, retval: object, **_: Any) -> None:
    found = delivery.on(task.request_stack.top)
    if found is not None and found.made is not None and found.guarded:
        found.made.ends(state, retval)


def _retried(sender: Task, request: Context, **_: Any) -> None:
    """Celery has stored RETRY; where another run was stopped meanwhile, that is not how the task ended."""
    found = delivery.on(request)
    attempt = None if found is None else found.made
    if attempt is None or not attempt.execution.entered:
        return
    execution = attempt.execution
    try:
        seen = attempt.service.ask(Peek((execution.key,)))
    except StoreUnavailable:
        return
    assert isinstance(seen, Seen)
    if seen.standings[0].until is not None and seen.standings[0].done:
        error = RunawayTaskAborted(f"{execution.name}[{execution.task_id}] was stopped in another run")
        abort.restore(sender, request, error)
