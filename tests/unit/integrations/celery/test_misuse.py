"""Mistakes that are told at import or when a worker starts, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, Task, current_app
from celery.exceptions import ImproperlyConfigured
from celery.signals import worker_init

from llmguard.guard import Guard
from llmguard.integrations.celery import install, llm_task
from tests.support.celery_mail import CONFIG


def sentence(told: pytest.ExceptionInfo[Any]) -> str:
    """What was said: one line that ends as a sentence."""
    text = str(told.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("wrong", [None, "proj.celery", Celery, object()])
def test_install_on_something_else(wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured) as told:
        install(wrong)
    assert "install() takes the Celery application, not" in sentence(told)


def test_install_takes_the_current_app(new_app: Callable[..., Celery], guard: Guard) -> None:
    app = new_app()
    app.set_current()
    install(current_app, guard)
    assert app.llmguard.guard is guard


def test_a_second_guard(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured) as told:
        install(app, Guard(CONFIG))
    assert "guarded already" in sentence(told)


def test_a_default_that_cannot_be(new_app: Callable[..., Celery]) -> None:
    with pytest.raises(ImproperlyConfigured) as told:
        install(new_app(), default={"max_calls": -1})
    assert "max_calls is -1" in sentence(told)


def test_the_decorator_above_the_task(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured) as told:

        @llm_task(team="growth")
        @app.task
        def task() -> None: ...

    assert "put it below" in sentence(told)


def test_the_decorator_on_a_class_that_is_no_task() -> None:
    with pytest.raises(ImproperlyConfigured) as told:

        @llm_task(team="growth")
        class NoTask: ...

    assert "NoTask is no Task" in sentence(told)


def test_options_without_names() -> None:
    with pytest.raises(ImproperlyConfigured) as told:
        llm_task("growth")  # type: ignore[call-overload]
    assert "by name" in sentence(told)


def test_the_decorator_works_bare_and_on_classes(app: Celery) -> None:
    @app.task
    @llm_task
    def bare() -> None: ...

    @llm_task(team="growth")
    class Classy(Task):
        name = "classy"

        def run(self) -> None: ...

    app.register_task(Classy())
    assert app.llmguard.policy(app.tasks[bare.name]).team is None
    assert app.llmguard.policy(app.tasks["classy"]).team == "growth"


def worker(app: Celery, **options: Any) -> None:
    """As far as a worker gets before its pool is made."""
    app.WorkController(**options)


@pytest.mark.parametrize(
    ("options", "children"),
    [
        ({"pool_cls": "prefork", "concurrency": 4}, 4),
        ({"pool_cls": "celery.concurrency.prefork:TaskPool", "concurrency": 3}, 3),
        ({"pool_cls": "prefork", "concurrency": 1, "autoscale": "8,1"}, 8),
    ],
)
def test_a_store_in_memory_for_several_children(app: Celery, options: dict[str, Any], children: int) -> None:
    with pytest.raises(SystemExit) as told:
        worker(app, **options)
    assert f"each of this worker's {children} children alone" in sentence(told)


@pytest.mark.parametrize(
    "options", [{"pool_cls": "prefork", "concurrency": 1}, {"pool_cls": "threads", "concurrency": 4}]
)
def test_a_store_in_memory_for_one_process(app: Celery, options: dict[str, Any]) -> None:
    worker(app, **options)


def test_children_that_are_spawned(app: Celery) -> None:
    with pytest.raises(SystemExit) as told:
        worker(app, pool_cls="prefork", concurrency=1, pool_start_method="spawn")
    assert "set it to 'fork'" in sentence(told)


def test_each_child_may_spend_alone(app: Celery) -> None:
    app.conf.llmguard_children_alone = True
    worker(app, pool_cls="prefork", concurrency=4)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"llmguard_instrumnt": True}, "did you mean llmguard_instrument?"),
        ({"llmguard_default": {"buget": "$5"}}, "buget"),
        ({"llmguard_default": {"budget": "-$5"}}, "budget"),
    ],
)
def test_settings_are_checked_when_a_worker_starts(
    new_app: Callable[..., Celery], guard: Guard, setting: dict[str, Any], said: str
) -> None:
    app = new_app()
    install(app, guard)
    app.conf.update(setting)
    with pytest.raises(SystemExit) as told:
        worker(app, pool_cls="solo")
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_configuration_that_cannot_be_read(new_app: Callable[..., Celery]) -> None:
    app = new_app()
    app.conf.llmguard_config = "/no/such/llmguard.yaml"
    install(app)
    with pytest.raises(SystemExit, match=r"/no/such/llmguard\.yaml"):
        worker(app, pool_cls="solo")


@pytest.fixture
def only_these_handlers() -> Any:
    before = list(worker_init.receivers)
    yield
    worker_init.receivers[:] = before


@pytest.mark.usefixtures("only_these_handlers")
def test_decorated_tasks_that_nothing_guards(new_app: Callable[..., Celery]) -> None:
    app = new_app()

    @app.task
    @llm_task(team="growth")
    def task() -> None: ...

    with pytest.raises(SystemExit) as told:
        worker(app, pool_cls="solo")
    assert "install(app)" in sentence(told)
