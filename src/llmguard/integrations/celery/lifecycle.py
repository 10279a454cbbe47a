"""What a task's body may do: asked before it runs, told when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from celery.app.task import Task

T = TypeVar("T")


def run(task: Task, body: Callable[[], T]) -> T:
    """Run the body of one delivered task. :func:`llmguard.integrations.celery.delivery.of` says what is known of the
    delivery: caller, execution, guard. ``body`` runs in a context of its own, with the caller in place."""
    return body()


def retry(task: Task, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Answer the body's call of ``task.retry(*args, **kwargs)``; ``original`` is the bound method."""
    return original(*args, **kwargs)
