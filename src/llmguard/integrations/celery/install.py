"""`install`: one call that guards every task of an application, whenever it is made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from celery import Celery, current_app
from celery.app.task import Task
from celery.exceptions import ImproperlyConfigured
from celery.local import maybe_evaluate
from celery.signals import before_task_publish, worker_init, worker_process_shutdown, worker_shutdown

from llmguard.core.runaway import TaskPolicy
from llmguard.errors import ConfigError
from llmguard.guard import Guard
from llmguard.integrations.celery import errbacks, lifecycle, misuse
from llmguard.integrations.celery.delivery import enclosing
from llmguard.integrations.celery.installation import Installation
from llmguard.integrations.celery.intercept import guard_task
from llmguard.integrations.celery.publish import sign_message
from llmguard.runtime import threads

_UID: Final = "llmguard"
_installed: list[Installation] = []


def install(app: Celery, guard: Guard | None = None, default: TaskPolicy | Mapping[str, Any] | None = None) -> None:
    """Guard the tasks of ``app``: those there are, those still to come, and the messages that this process publishes.

    Call it where the application is made; before or after `config_from_object`, in the web application too, since it
    signs what a view enqueues. ``guard`` is by default that of the setting `llmguard_config`, else
    :func:`llmguard.get_guard`. ``default`` holds :func:`llm_task` options for tasks that are not decorated. A second
    call does nothing. Reads no configuration and opens nothing; a worker's children do that at their first task.

    Raises ImproperlyConfigured for something else than an application, for impossible options, and for a second guard.
    """
    app = misuse.the_app(app)
    there = getattr(app, misuse.ATTRIBUTE, None)
    if there is not None:
        there.check_same(guard, default)
        return
    installation = Installation(app, guard, default)
    setattr(app, misuse.ATTRIBUTE, installation)
    _installed.append(installation)
    _connect()
    threads.install("celery")
    _guard_tasks(installation)


def _guard_tasks(installation: Installation) -> None:
    """Every way by which a task comes to an application."""
    app = installation.app
    _follow(app, "_task_from_fun", installation)
    _follow(app, "register_task", installation)
    for promise in list(app._pending):
        # It was told to make its task with the method that stood there before.
        promise.__then__(lambda promise=promise: guard_task(maybe_evaluate(promise), installation))
    app.on_after_finalize.connect(partial(_guard_all, installation), weak=False, dispatch_uid=_UID)
    _guard_all(installation)


def _follow(app: Celery, maker: str, installation: Installation) -> None:
    make = getattr(app, maker)

    def made(*args: Any, **kwargs: Any) -> Task:
        task = make(*args, **kwargs)
        guard_task(task, installation)
        return task

    setattr(app, maker, made)


def _guard_all(installation: Installation, **_: Any) -> None:
    for task in list(installation.app._tasks.values()):
        guard_task(task, installation)


def _connect() -> None:
    before_task_publish.connect(_publishing, weak=False, dispatch_uid=_UID)
    worker_init.connect(_starting, weak=False, dispatch_uid=_UID)
    worker_process_shutdown.connect(_stopping, weak=False, dispatch_uid=_UID)
    worker_shutdown.connect(_stopping, weak=False, dispatch_uid=_UID)
    lifecycle.connect()
    errbacks.follow()


def _publishing(body: Any, headers: dict[str, Any], properties: Mapping[str, Any], **_: Any) -> None:
    sign_message(_in_charge(), body, headers, properties)


def _in_charge() -> Installation:
    """Which application publishes: that of the running task, the current one, or the one that was installed last."""
    around = enclosing()
    if around is not None:
        return around.installation
    there: Installation | None = getattr(current_app._get_current_object(), misuse.ATTRIBUTE, None)
    return _installed[-1] if there is None else there


def _starting(sender: Any, **_: Any) -> None:
    installation = getattr(sender.app, misuse.ATTRIBUTE, None)
    if installation is None:
        return
    try:
        misuse.check_worker(installation, sender)
    except (ImproperlyConfigured, ConfigError) as error:
        misuse.refuse_to_start(error)


def _stopping(**_: Any) -> None:
    """The pool's child ends, or the worker whose tasks run in its main process: put on record what was done."""
    for installation in _installed:
        installation.leave_process()
