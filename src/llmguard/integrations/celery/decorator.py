"""`llm_task`: what a task may spend and whom it is for, written next to the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

from celery.app.task import Task

from llmguard.core.runaway import TaskPolicy
from llmguard.integrations.celery import misuse
from llmguard.integrations.celery.policy import parse_policy

F = TypeVar("F", bound=Callable[..., Any])

_POLICY: Final = "__llmguard_policy__"


@overload
def llm_task(function: F, /) -> F: ...
@overload
def llm_task(**options: Any) -> Callable[[F], F]: ...
def llm_task(function: Any = None, /, **options: Any) -> Any:
    """Say what a task may spend. Stands *below* ``@app.task`` or ``@shared_task``, or above a class of tasks::

        @app.task(bind=True)
        @llm_task(team="growth", feature="summaries", budget="$5")
        def summarise(self, doc_id): ...

    The options, their defaults and units are those of :func:`llmguard.integrations.celery.policy.parse_policy`. Nothing
    is wrapped: the guard itself comes with :func:`install`. Raises ImproperlyConfigured for an option that does not
    exist or cannot be, and for a decorator in the wrong place.
    """
    policy = parse_policy(options)
    misuse.expect_install()

    def decorate(target: Any) -> Any:
        misuse.check_decorated(target)
        setattr(target, _POLICY, policy)
        return target

    return decorate if function is None else decorate(function)


def written_policy(task: Task) -> TaskPolicy | None:
    """The policy that :func:`llm_task` gave a task's function or class; None for a task without one."""
    for place in (getattr(task, "_decorated_fun", None), task.run, type(task)):
        policy = getattr(place, _POLICY, None)
        if isinstance(policy, TaskPolicy):
            return policy
    return None
