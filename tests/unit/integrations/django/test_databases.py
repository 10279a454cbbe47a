"""The ledger's URL from an entry of DATABASES, and the guard of a test runner's database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from llmguard.integrations.django import guards
from llmguard.integrations.django.databases import look_up

Setting = Callable[..., None]
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "shop",
    "USER": "",
    "PASSWORD": "",
    "HOST": "",
    "PORT": "",
}
SECRETS = {
    "pepper": "0123456789abcdef" * 4,
    "signing": ["fedcba9876543210" * 4],
    "cache": ["02468ace13579bdf" * 4],
}


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the entry `default` of DATABASES."""

    def write(**entry: Any) -> None:
        for key, value in entry.items():
            monkeypatch.setitem(connections.settings["default"], key, value)

    return write


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ({}, "postgresql:///shop"),
        ({"USER": "u@x", "PASSWORD": "p:/w", "HOST": "db", "PORT": 5433}, "postgresql://u%40x:p%3A%2Fw@db:5433/shop"),
        ({"USER": "u", "HOST": "/run/postgresql"}, "postgresql://u@/shop?host=%2Frun%2Fpostgresql"),
        (
            {"HOST": "db", "OPTIONS": {"sslmode": "require", "pool": True, "isolation_level": 3, "keepalives": 1}},
            "postgresql://db/shop?keepalives=1&sslmode=require",
        ),
    ],
)
def test_the_url_of_a_postgresql_database(database: Callable[..., None], entry: dict[str, Any], url: str) -> None:
    database(**POSTGRESQL | {"OPTIONS": {}} | entry)
    assert look_up("default").url == url


def test_a_database_that_cannot_be_a_ledger(database: Callable[..., None]) -> None:
    database(ENGINE="django.db.backends.mysql")
    with pytest.raises(ImproperlyConfigured, match="mysql cannot hold a ledger"):
        look_up("default")
    with pytest.raises(ImproperlyConfigured, match=r"'alias:reports', but DATABASES has only: default"):
        look_up("reports")


def test_a_test_runner_s_database_has_a_spool_and_a_store_of_its_own(
    database: Callable[..., None], llmguard_setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(**POSTGRESQL)
    monkeypatch.setattr("llmguard.integrations.django.databases._named", {"default": "shop"})
    own = {"store": "redis://localhost:6379/0", "secrets": SECRETS, "providers": {"sandbox": {"dialect": "sandbox"}}}
    llmguard_setting(LEDGER="alias:default", CONFIG=own | {"spool": {"path": str(tmp_path / "spool")}})
    real = guards.find_guard()
    assert guards.find_guard() is real
    assert (real.config.ledger, real.config.store) == ("postgresql:///shop", "redis://localhost:6379/0")
    assert real.config.spool.path == str(tmp_path / "spool")

    database(NAME="test_shop_2")
    tests = guards.find_guard()
    assert guards.find_guard() is tests is not real
    assert (tests.config.ledger, tests.config.store) == ("postgresql:///test_shop_2", "memory://")
    assert not tests.config.spool.path.startswith(str(tmp_path))
    assert tests.config.providers == real.config.providers

    guards.leave_test_databases()
    database(NAME="shop")
    again = guards.find_guard()
    assert (again.config.ledger, again.config.store) == (real.config.ledger, real.config.store)
    guards.leave_test_databases()
    assert guards.find_guard() is again


@pytest.mark.parametrize("ledger", [None, "alias:default", "postgresql://db/shop"])
def test_a_ledger_that_is_no_test_database_is_kept_out_of_tests(
    database: Callable[..., None], llmguard_setting: Setting, ledger: str | None
) -> None:
    own = {"secrets": SECRETS, "providers": {"sandbox": {"dialect": "sandbox"}}}
    llmguard_setting(LEDGER=ledger, CONFIG=own)
    database(NAME="file:memorydb_default?mode=memory&cache=shared")
    guard = guards.find_guard()
    place = Path(guard.config.spool.path).parent
    assert (guard.config.ledger, place.is_dir()) == (f"sqlite:///{place}/ledger.db", True)
    guards.leave_test_databases()
    assert not place.exists()
