"""A Django project in this process, and a guard of its own for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.test import override_settings

from llmguard import guard as guards
from tests.support import django_settings


@pytest.fixture(scope="package", autouse=True)
def project() -> Iterator[None]:
    """Django, set up once in this process; it says which guard is the default one only during these tests."""
    chosen = dict(guards._chosen)
    if not settings.configured:
        written = {name: value for name, value in vars(django_settings).items() if name.isupper()}
        settings.configure(**written, LOGGING_CONFIG=None)
        django.setup()
    from llmguard.integrations.django.guards import find_guard

    guards.choose(find_guard)
    yield
    guards._chosen.clear()
    guards._chosen.update(chosen)


@pytest.fixture
def llmguard_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets `LLMGUARD` for the rest of the test; a configuration in ``tmp_path`` where none is named."""
    for name in [name for name in os.environ if name.startswith("LLMGUARD_") or name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    overrides: list[Any] = []

    def override(**keys: Any) -> None:
        overrides.append(override_settings(LLMGUARD={"CONFIG": config(tmp_path), "INSTRUMENT": False} | keys))
        overrides[-1].enable()

    yield override
    for each in reversed(overrides):
        each.disable()


def config(home: Path) -> dict[str, Any]:
    """The sandbox, and everything below ``home``."""
    return {
        "ledger": f"sqlite:///{home / 'ledger.db'}",
        "spool": {"path": str(home / "spool")},
        "providers": {"sandbox": {"dialect": "sandbox"}},
    }
