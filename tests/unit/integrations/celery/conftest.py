"""A Celery application in memory, and a guard that opens nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery._state import _on_app_finalizers

import llmguard
from llmguard.guard import Guard
from llmguard.integrations.celery import install
from tests.support.celery_mail import CONFIG, Mail


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    """The first task of a process has its SDK clients guarded."""
    yield
    llmguard.uninstrument()


@pytest.fixture(autouse=True)
def _no_shared_tasks() -> Iterator[None]:
    """Celery gives the tasks of one application to all later ones; here each test has its own."""
    before = set(_on_app_finalizers)
    yield
    _on_app_finalizers.clear()
    _on_app_finalizers.update(before)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    """A guard that opens nothing before the first call or note, and then in a directory of its own."""
    made = Guard(CONFIG | {"ledger": f"sqlite:///{tmp_path / 'ledger.db'}", "spool": {"path": str(tmp_path / "spool")}})
    yield made
    made.close()


@pytest.fixture
def new_app() -> Iterator[Callable[..., Celery]]:
    """Makes applications whose broker and results are in memory."""
    made: list[Celery] = []

    def make(**options: Any) -> Celery:
        app = Celery(f"app{len(made)}", broker="memory://", backend="cache+memory://", **options)
        app.conf.update(task_default_queue=f"queue-{id(app)}", broker_connection_retry_on_startup=True)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(new_app: Callable[..., Celery], guard: Guard) -> Celery:
    """An application that is guarded before it has any task; tasks without a policy need no service of the guard."""
    app = new_app()
    install(app, guard, {"mode": "off"})
    return app


@pytest.fixture
def mail(app: Celery) -> Mail:
    """The queue of ``app``."""
    return Mail(app)
