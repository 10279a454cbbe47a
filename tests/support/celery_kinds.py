"""The kinds of task there are. Each maker takes an application, a body, and the task's name.

The body is called with what the task was called with, without ``self``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from celery import Celery, Task, shared_task
from pydantic import BaseModel

Body = Callable[..., Any]
NAME = "kinds.task"
CALLS: list[str] = []
"""What the `__call__`s that a user wrote have seen."""


class Plain(Task):
    abstract = True


class Calling(Task):
    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        CALLS.append("base")
        return super().__call__(*args, **kwargs)


class Running(Task):
    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        CALLS.append("run")
        return self.run(*args, **kwargs)


class Retrying(Task):
    abstract = True

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        CALLS.append("retry")
        return super().retry(*args, **kwargs)


class Document(BaseModel):
    number: int


def _noted(function: Body) -> Body:
    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        CALLS.append("decorated")
        return function(*args, **kwargs)

    return noted


def function(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called)
    def task(x: int) -> Any:
        return body(x)


def bound(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, bind=True)
    def task(self: Task, x: int) -> Any:
        assert self.request.id
        return body(x)


def eager_made(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, lazy=False)
    def task(x: int) -> Any:
        return body(x)


def shared(app: Celery, body: Body, called: str = NAME) -> None:
    @shared_task(name=called)
    def task(x: int) -> Any:
        return body(x)


def with_base(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, base=Plain)
    def task(x: int) -> Any:
        return body(x)


def with_calling_base(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, base=Calling)
    def task(x: int) -> Any:
        return body(x)


def with_running_base(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, base=Running, bind=True)
    def task(self: Task, x: int) -> Any:
        return body(x)


def with_retrying_base(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, base=Retrying, bind=True)
    def task(self: Task, x: int) -> Any:
        return body(x)


def registered_class(app: Celery, body: Body, called: str = NAME) -> None:
    class Registered(app.Task):
        name = called

        def run(self, x: int) -> Any:
            return body(x)

    app.register_task(Registered)


def registered_object(app: Celery, body: Body, called: str = NAME) -> None:
    class Registered(Task):
        name = called

        def run(self, x: int) -> Any:
            return body(x)

    app.register_task(Registered())


def class_with_call(app: Celery, body: Body, called: str = NAME) -> None:
    class Registered(Task):
        name = called

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            CALLS.append("own")
            return super().__call__(*args, **kwargs)

        def run(self, x: int) -> Any:
            return body(x)

    app.register_task(Registered())


def class_with_decorated_call(app: Celery, body: Body, called: str = NAME) -> None:
    class Registered(Task):
        name = called
        __call__ = _noted(Task.__call__)

        def run(self, x: int) -> Any:
            return body(x)

    app.register_task(Registered())


def autoretry(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, autoretry_for=(KeyError,), max_retries=1, retry_kwargs={"countdown": 0})
    def task(x: int) -> Any:
        return body(x)


def pydantic(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called, pydantic=True)
    def task(x: int, document: Document | None = None) -> Any:
        return body(x)


def decorated(app: Celery, body: Body, called: str = NAME) -> None:
    @app.task(name=called)
    @_noted
    def task(x: int) -> Any:
        return body(x)


def annotated(app: Celery, body: Body, called: str = NAME) -> None:
    app.conf.task_annotations = {called: {"@__call__": _noted, "rate_limit": "100/s"}}

    @app.task(name=called)
    def task(x: int) -> Any:
        return body(x)


def inherited(app: Celery, body: Body, called: str = NAME) -> None:
    """A class of tasks whose base is a task of its own, guarded too."""

    class First(Task):
        name = called + ".first"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            CALLS.append("first")
            return super().__call__(*args, **kwargs)

        def run(self, x: int) -> Any:
            return body(x)

    class Second(First):
        name = called

    app.register_task(First())
    app.register_task(Second())


def django(app: Celery, body: Body, called: str = NAME) -> None:
    from celery.contrib.django.task import DjangoTask

    @app.task(name=called, base=DjangoTask)
    def task(x: int) -> Any:
        return body(x)


KINDS: dict[str, Callable[..., None]] = {
    made.__name__: made
    for made in (
        function, bound, eager_made, shared, with_base, with_calling_base, with_running_base, with_retrying_base,
        registered_class, registered_object, class_with_call, class_with_decorated_call, autoretry, pydantic, decorated,
        annotated, inherited, django,
    )
}  # fmt: skip

CALLED = {
    "with_calling_base": "base",
    "with_running_base": "run",
    "class_with_call": "own",
    "class_with_decorated_call": "decorated",
    "decorated": "decorated",
    "annotated": "decorated",
    "inherited": "first",
}
"""What a user's own wrapper leaves in :data:`CALLS`, once for each run."""
