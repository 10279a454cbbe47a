"""Mistakes in how the guard is put into an application, each told in one sentence, at import or at a worker's start."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Final

from celery import Celery
from celery.app.task import Task
from celery.exceptions import ImproperlyConfigured
from celery.local import Proxy
from celery.signals import worker_init

if TYPE_CHECKING:
    from llmguard.integrations.celery.installation import Installation

ATTRIBUTE: Final = "llmguard"
"""Where an application keeps its installation."""

_UID: Final = "llmguard.misuse"
_PROCESSES: Final = frozenset({"prefork", "processes"})


def the_app(app: Any) -> Celery:
    """The application that `install` was given. Raises ImproperlyConfigured for anything else."""
    if isinstance(app, Proxy):
        app = app._get_current_object()
    if not isinstance(app, Celery):
        raise ImproperlyConfigured(
            f"install() takes the Celery application, not {_named(app)}: app = Celery(…); install(app)."
        )
    return app


def check_decorated(target: Any) -> None:
    """Whether :func:`llm_task` was put where Celery finds it. Raises ImproperlyConfigured."""
    if isinstance(target, Proxy | Task):
        raise ImproperlyConfigured(
            f"@llm_task stands above what makes {target.name} a task; put it below, next to the function."
        )
    if inspect.isclass(target) and not issubclass(target, Task):
        raise ImproperlyConfigured(f"@llm_task is for functions and classes of tasks, and {_named(target)} is no Task.")
    if not callable(target):
        raise ImproperlyConfigured(
            f"@llm_task takes its options by name, as in @llm_task(team='search'); it was given {target!r}."
        )


def expect_install() -> None:
    """From now on a worker of an application without :func:`install` does not start: its policies would be idle."""
    worker_init.connect(_check_installed, weak=False, dispatch_uid=_UID)


def check_worker(installation: Installation, worker: Any) -> None:
    """What can only be seen when a worker starts. Raises ImproperlyConfigured or ConfigError."""
    installation.check()
    if _has_processes(worker) and worker.pool_start_method == "spawn":
        raise ImproperlyConfigured(
            "worker_pool_start_method is 'spawn', and a spawned child has an application of its own, which nothing "
            "guards; set it to 'fork', or use another pool."
        )
    store = installation.guard.config.store
    children = _children(worker)
    if store.startswith("memory:") and children > 1 and not installation.settings.children_alone:
        raise ImproperlyConfigured(
            f"the store {store} counts in each of this worker's {children} children alone, so every limit holds "
            f"{children} times; set store: redis://… in llmguard.yaml, or llmguard_children_alone = True."
        )


def _check_installed(sender: Any, **_: Any) -> None:
    if getattr(sender.app, ATTRIBUTE, None) is None:
        refuse_to_start(
            "tasks are decorated with @llm_task, but nothing guards them: call install(app) of "
            "llmguard.integrations.celery where the application is made."
        )


def refuse_to_start(why: object) -> None:
    """End a worker that is starting. Celery logs the exceptions of signal handlers and goes on; this one it cannot."""
    raise SystemExit(f"llmguard: {why}")


def _has_processes(worker: Any) -> bool:
    pool = worker.pool_cls if isinstance(worker.pool_cls, str) else worker.pool_cls.__module__
    return pool.partition(":")[0].rpartition(".")[2] in _PROCESSES


def _children(worker: Any) -> int:
    """How many processes the pool has, at most; 1 where tasks run in the main process."""
    if not _has_processes(worker):
        return 1
    scale = worker.options.get("autoscale")
    if scale:
        return int(scale.partition(",")[0]) if isinstance(scale, str) else int(scale[0])
    return int(worker.concurrency) if str(worker.concurrency).isdigit() else os.cpu_count() or 1


def _named(thing: Any) -> str:
    kind = thing if inspect.isclass(thing) else type(thing)
    return f"{'the class' if inspect.isclass(thing) else 'an object of'} {kind.__module__}.{kind.__qualname__}"
