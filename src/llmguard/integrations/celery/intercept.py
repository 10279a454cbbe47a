"""Puts the guard around a task: its own class gets a `__call__` and a `retry`.

That is the only place that holds for every kind of task, whether it was made before or after `install` and whatever
else wraps it. Annotations are applied late and undo what came before them, a base class is missed by every task with
another one, and a decorator of the function sits inside Celery's own `autoretry_for`. Tracers that wrap a task's
`__call__` (Sentry) then wrap ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app import trace
from celery.app.task import Task

from llmguard.integrations.celery import lifecycle
from llmguard.integrations.celery.delivery import Delivery, on
from llmguard.runtime.context import begin_as, carrying, current

if TYPE_CHECKING:
    from llmguard.integrations.celery.installation import Installation

_MARK = "__llmguard__"
_WRITTEN = "__llmguard_written__"


def guard_task(task: Task, installation: Installation) -> None:
    """Guard one registered task, once. Does no more than set attributes of its class."""
    kind = type(task)
    if _MARK in kind.__dict__:
        return
    setattr(kind, _MARK, installation)
    kind.__call__ = _guarded_call(kind, installation)
    kind.retry = _guarded_retry(kind)
    if task.__trace__ is not None:
        _trace_again(task, installation)


def _guarded_call(kind: type[Task], installation: Installation) -> Callable[..., Any]:
    own = kind.__dict__.get("__call__")

    def __call__(self: Task, *args: Any, **kwargs: Any) -> Any:
        written = own or _written_by_a_base(kind)
        request = self.request_stack.top
        if request is None or request.called_directly or on(request) is not None:
            return _called_by_hand(installation, self, partial(written or Task.__call__, self, *args, **kwargs))
        # Celery has prepared everything: the base class would give the body a copy of its request.
        body = partial(written, self, *args, **kwargs) if written else partial(self.run, *args, **kwargs)
        delivery = installation.deliver(self, request)
        return lifecycle.run(delivery, partial(begin_as, delivery.caller, partial(_body, delivery, body)))

    setattr(__call__, _WRITTEN, own)
    return __call__


def _written_by_a_base(kind: type[Task]) -> Callable[..., Any] | None:
    """The `__call__` that a base class brings along; where that one is guarded itself, what it was before."""
    for base in kind.__mro__[1:]:
        if base is Task:
            return None
        call = base.__dict__.get("__call__")
        call = getattr(call, _WRITTEN, call)
        if call is not None:
            return call  # type: ignore[no-any-return]
    return None


def _guarded_retry(kind: type[Task]) -> Callable[..., Any]:
    own = kind.__dict__.get("retry")

    def retry(self: Task, *args: Any, **kwargs: Any) -> Any:
        original = super(kind, self).retry if own is None else partial(own, self)
        # The class of another guarded task may be the base of this one: one of the two is enough.
        if type(self) is not kind or on(self.request_stack.top) is None:
            return original(*args, **kwargs)
        return lifecycle.retry(self, original, args, kwargs)

    return retry


def _body(delivery: Delivery, body: Callable[[], Any]) -> Any:
    """Run the user's code, and say while it runs."""
    delivery.running = True
    try:
        return body()
    finally:
        delivery.end()


def _called_by_hand(installation: Installation, task: Task, call: Callable[[], Any]) -> Any:
    """A task called like a function is a part of the body that calls it. Celery calls some errbacks so."""
    if current().execution is not None:
        return call()
    with carrying(installation.caller_by_hand(task)):
        return call()


def _trace_again(task: Task, installation: Installation) -> None:
    """Celery has decided already what to call for this task: let it decide again."""
    hostname = trace._localized[2] if trace._localized else None
    app = installation.app
    task.__trace__ = trace.build_tracer(task.name, task, app.loader, hostname, app=app)
