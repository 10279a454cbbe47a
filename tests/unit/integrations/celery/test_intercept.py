"""Every kind of task is guarded, once, whenever it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, Task

import llmguard
from llmguard.guard import Guard
from llmguard.integrations.celery import delivery, install, lifecycle, llm_task
from llmguard.runtime.context import current
from tests.support.celery_kinds import CALLED, CALLS, KINDS, NAME
from tests.support.celery_mail import Mail

QUIET = {"mode": "off"}
"""A default policy that needs no service of the guard."""

ORDERS = ("before", "after", "after_finalize", "after_first_run", "before_configuration")


def prepare(app: Celery, guard: Guard, order: str, make: Callable[[], None]) -> None:
    """Make a task and install the guard, in one order or another."""
    if order == "before":
        install(app, guard, QUIET)
        make()
    elif order == "before_configuration":
        install(app, guard, QUIET)
        make()
        app.config_from_object({"task_ignore_result": True})
    else:
        make()
        if order == "after_finalize":
            app.finalize()
        if order == "after_first_run":
            app.tasks[NAME].apply((0,))
        install(app, guard, QUIET)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(new_app: Callable[..., Celery], guard: Guard, kind: str, order: str) -> None:
    app = new_app()
    executions: list[Any] = []

    def body(x: int) -> int:
        executions.append(current().execution)
        return x + 1

    prepare(app, guard, order, lambda: KINDS[kind](app, body))
    executions.clear()
    CALLS.clear()
    app.tasks[NAME].delay(1)
    assert Mail(app).run_all() == 1
    (execution,) = executions
    assert (execution.name, execution.ended) == (NAME, True)
    assert ([CALLED[kind]] if kind in CALLED else []) == CALLS
    assert current().execution is None

    assert app.tasks[NAME].apply((2,)).get() == 3
    assert executions[1] is not execution
    assert executions[1].name == NAME


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_called_like_a_function(app: Celery, kind: str) -> None:
    seen: list[Any] = []

    def body(x: int) -> int:
        seen.append((current().team, current().samples, current().execution))
        return x + 1

    KINDS[kind](app, body)
    task = app.tasks[NAME]
    if kind != "bound":
        with llmguard.context(team="web", samples=20):
            assert task(1) == 2
        assert seen == [("web", 20, None)]


def test_a_task_called_by_a_body_is_a_part_of_it(app: Celery, mail: Mail) -> None:
    seen: list[Any] = []

    @app.task(bind=True)
    def inner(self: Any, deep: int) -> None:
        seen.append((current().execution, self.request.id))
        if deep:
            self(deep - 1)

    @app.task
    def outer() -> None:
        inner(3)

    outer.delay()
    mail.run_all()
    assert len(seen) == 4
    assert len({execution for execution, _ in seen}) == 1
    assert seen[0][0].name == outer.name


def test_a_body_gets_the_request_itself(app: Celery, mail: Mail) -> None:
    seen: list[Any] = []

    @app.task(bind=True)
    def task(self: Any) -> None:
        self.request.mine = "kept"
        seen.append(self.request_stack.stack[:])

    task.delay()
    mail.run_all()
    (stack,) = seen
    assert [request.mine for request in stack] == ["kept"]


def test_a_custom_retry_is_kept(app: Celery, mail: Mail) -> None:
    CALLS.clear()
    runs: list[int] = []

    def body(x: int) -> None:
        task = app.tasks[NAME]
        runs.append(task.request.retries)
        if task.request.retries < 2:
            raise task.retry(countdown=0)

    KINDS["with_retrying_base"](app, body)
    app.tasks[NAME].delay(1)
    mail.run_all()
    assert runs == [0, 1, 2]
    assert CALLS == ["retry", "retry"]


def test_a_retry_is_counted_once_also_where_a_base_is_guarded(
    app: Celery, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    retry = lifecycle.retry

    def counting(task: Any, *rest: Any) -> Any:
        counted.append(task.name)
        return retry(task, *rest)

    monkeypatch.setattr(lifecycle, "retry", counting)

    class First(Task):
        name = "first"

        def run(self) -> None:
            if self.request.retries < 2:
                raise self.retry(countdown=0)

    class Second(First):
        name = "second"

        def retry(self, *args: Any, **kwargs: Any) -> Any:
            return super().retry(*args, **kwargs)

    app.register_task(First())
    app.register_task(Second())
    app.tasks["second"].delay()
    assert mail.run_all() == 3
    assert counted == ["second", "second"]


def test_autoretry_passes_the_guard_each_time(app: Celery, mail: Mail) -> None:
    executions: list[Any] = []

    def body(x: int) -> None:
        executions.append(current().execution)
        raise KeyError(x)

    KINDS["autoretry"](app, body)
    app.tasks[NAME].delay(1)
    mail.run_all()
    assert len(executions) == 2
    assert len({e.key for e in executions}) == 1
    assert len({e.run_id for e in executions}) == 2


def test_map_goes_by_the_name_of_what_it_maps(app: Celery, mail: Mail) -> None:
    seen: list[Any] = []

    @app.task
    @llm_task(team="growth", feature="summaries")
    def summarise(_: int) -> None:
        seen.append((current().execution, current().team, current().feature))

    summarise.map([1, 2, 3]).delay()
    mail.run_all()
    assert len(seen) == 3
    assert {(execution.name, team, feature) for execution, team, feature in seen} == {
        (summarise.name, "growth", "summaries")
    }


def test_context_variables_do_not_leak_into_the_next_task(app: Celery, mail: Mail) -> None:
    teams: list[str | None] = []

    @app.task
    def leaks(team: str) -> None:
        teams.append(current().team)
        llmguard.context(team=team).__enter__()

    leaks.delay("a")
    leaks.delay("b")
    mail.run_all()
    assert teams == [None, None]
    assert current().team is None


def test_install_twice_guards_once(app: Celery, guard: Guard, mail: Mail) -> None:
    executions: list[Any] = []

    @app.task
    def task() -> None:
        executions.append(delivery.enclosing())

    install(app, guard)
    install(app)
    task.delay()
    mail.run_all()
    assert len(executions) == 1
    assert delivery.enclosing() is None


def test_celerys_own_tasks_are_guarded_too(app: Celery, guard: Guard) -> None:
    assert all("__llmguard__" in vars(type(task)) for task in app.tasks.values())
    assert "celery.chord_unlock" in app.tasks


def test_a_promise_made_before_install_and_used_before_finalize(new_app: Callable[..., Celery], guard: Guard) -> None:
    app = new_app()
    executions: list[Any] = []

    @app.task(shared=False)
    def task() -> None:
        executions.append(current().execution)

    install(app, guard, QUIET)
    task.apply()
    assert not app.finalized
    assert executions[0].name == task.name
