"""Each system check, triggered once, and none where all is well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from llmguard import Guard
from tests.unit.integrations.django.conftest import config

Setting = Callable[..., None]
OURS = "llmguard.integrations.django.ContextMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"


def found(**options: Any) -> dict[str, tuple[str, str | None]]:
    """What the checks say, by id."""
    messages = [message for message in run_checks(**options) if str(message.id).startswith("llmguard.")]
    return {str(message.id).removeprefix("llmguard."): (message.msg, message.hint) for message in messages}


def test_nothing_is_said_where_all_is_well(llmguard_setting: Setting, tmp_path: Path) -> None:
    llmguard_setting(ATTRIBUTION="tests.support.django_views.attribution")
    ledger = Guard(config(tmp_path)).ledger()
    ledger.make_ready()
    ledger.close()
    assert found(databases=["default"]) == {}


def test_e001_a_key_that_does_not_exist(llmguard_setting: Setting) -> None:
    llmguard_setting(LEDGAR="sqlite:///x.db")
    assert found() == {"E001": ("LLMGUARD has no key 'LEDGAR'; write 'LEDGER'.", None)}


def test_e001_a_wrong_configuration(llmguard_setting: Setting, tmp_path: Path) -> None:
    llmguard_setting(CONFIG=config(tmp_path) | {"stroe": "memory://"})
    said, hint = found()["E001"]
    assert "stroe" in said
    assert hint is not None
    assert "store" in hint


def test_e001_a_wrong_ledger(llmguard_setting: Setting) -> None:
    llmguard_setting(LEDGER="mysql://localhost/shop")
    said, _ = found()["E001"]
    assert said.startswith("LLMGUARD['LEDGER']: ledger is 'mysql://localhost/shop'")


@pytest.mark.parametrize(
    ("middleware", "said"),
    [
        ([], "LLMGUARD['ATTRIBUTION'] is never called: ContextMiddleware is not in MIDDLEWARE"),
        ([OURS, OURS], "ContextMiddleware is in MIDDLEWARE twice"),
        (
            [OURS, AUTHENTICATION],
            "ContextMiddleware stands before AuthenticationMiddleware, so nobody is logged in yet where it looks",
        ),
    ],
)
def test_e002_the_middleware_is_in_the_wrong_place(llmguard_setting: Setting, middleware: list[str], said: str) -> None:
    llmguard_setting(ATTRIBUTION="tests.support.django_views.attribution")
    with override_settings(MIDDLEWARE=middleware):
        assert found() == {"E002": (said, f"write '{OURS}' once, as the last of MIDDLEWARE")}


def test_e003_an_alias_that_does_not_exist(llmguard_setting: Setting) -> None:
    llmguard_setting(LEDGER="alias:reports")
    assert found() == {"E003": ("LLMGUARD['LEDGER'] is 'alias:reports', but DATABASES has only: default.", None)}


def test_e004_a_function_that_does_not_exist(llmguard_setting: Setting) -> None:
    llmguard_setting(ATTRIBUTION="tests.support.django_views.nobody")
    said, _ = found()["E004"]
    assert said.startswith(
        "LLMGUARD['ATTRIBUTION'] names 'tests.support.django_views.nobody', which cannot be imported"
    )


def test_w001_the_ledger_is_in_the_project_s_own_file(
    llmguard_setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.conf import settings

    monkeypatch.setitem(settings.DATABASES["default"], "NAME", tmp_path / "ledger.db")
    llmguard_setting()
    said, hint = found()["W001"]
    assert "the SQLite file of DATABASES['default']" in said
    assert hint is not None
    assert "sqlite:///llmguard.db" in hint


def test_w002_a_store_in_memory_is_said_before_a_deployment_only(llmguard_setting: Setting) -> None:
    llmguard_setting()
    assert found() == {}
    assert list(found(include_deployment_checks=True)) == ["W002"]


def test_w003_tables_that_are_not_this_program_s(llmguard_setting: Setting, tmp_path: Path) -> None:
    llmguard_setting()
    (tmp_path / "ledger.db").touch()
    assert found() == {}
    said, hint = found(databases=["default"])["W003"]
    assert said == "the ledger cannot be used: its schema is not this program's"
    assert hint == "run `manage.py llmguard migrate`"
