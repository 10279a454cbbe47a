"""The settings of the application that are the guard's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from llmguard.guard import Guard
from llmguard.integrations.celery import install
from llmguard.integrations.celery.settings import Settings, read_settings
from tests.support.celery_mail import CONFIG


def test_nothing_set(new_app: Callable[..., Celery]) -> None:
    assert read_settings(new_app()) == Settings(config=None, default=None, instrument=True, children_alone=False)


@pytest.mark.parametrize(
    ("namespace", "written"),
    [
        (None, {"llmguard_children_alone": True, "llmguard_instrument": False}),
        ("celery", {"celery_llmguard_children_alone": True, "celery_llmguard_instrument": False}),
        ("CELERY", {"CELERY_LLMGUARD_CHILDREN_ALONE": True, "CELERY_LLMGUARD_INSTRUMENT": False}),
        ("CELERY_", {"CELERY_LLMGUARD_CHILDREN_ALONE": True, "CELERY_LLMGUARD_INSTRUMENT": False, "LLMGUARD": {}}),
    ],
)
@pytest.mark.parametrize("as_object", [False, True])
def test_any_namespace(
    new_app: Callable[..., Celery], namespace: str | None, written: dict[str, Any], as_object: bool
) -> None:
    app = new_app()
    app.config_from_object(SimpleNamespace(**written) if as_object else written, namespace=namespace)
    assert read_settings(app) == Settings(instrument=False, children_alone=True)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"llmguard_instrumnt": True}, "did you mean llmguard_instrument?"),
        ({"llmguard_xyz": 1}, "there are llmguard_config, llmguard_default, llmguard_instrument"),
        ({"llmguard_instrument": "no"}, "llmguard_instrument is 'no'; it must be True or False."),
        ({"llmguard_config": 7}, "it must be the path of llmguard.yaml, or a mapping."),
        ({"llmguard_default": "strict"}, "it must be a mapping of llm_task options."),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    new_app: Callable[..., Celery], written: dict[str, Any], sentence: str
) -> None:
    app = new_app()
    app.conf.update(written)
    with pytest.raises(ImproperlyConfigured) as told:
        read_settings(app)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("first", ["install", "configure"])
def test_both_orders_of_configuration(new_app: Callable[..., Celery], first: str) -> None:
    app = new_app()
    if first == "install":
        install(app)
    app.config_from_object({"llmguard_config": CONFIG, "llmguard_default": {"team": "night"}}, force=True)
    if first == "configure":
        install(app)
    installation = app.llmguard
    assert installation.guard.config.providers.keys() == {"sandbox"}
    assert installation.default.team == "night"


def test_the_guard_of_install_comes_first(new_app: Callable[..., Celery], guard: Guard) -> None:
    app = new_app()
    app.conf.llmguard_config = "/no/such/file"
    install(app, guard)
    assert app.llmguard.guard is guard
