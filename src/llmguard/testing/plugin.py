"""The pytest plugin: fixtures for tests of code that calls LLMs.

pytest loads it in every run, so it imports nothing of llmguard before a fixture is used.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmguard.guard import Guard
    from llmguard.testing.clock import Clock
    from llmguard.testing.provider import FakeProvider

pytest.register_assert_rewrite("llmguard.testing.stores", "llmguard.testing.ledgers", "llmguard.testing.dialects")

_MARKER = (
    "llmguard(config=None, instrument=False): the configuration (path or mapping) of the guard of fixture "
    "llmguard_guard, and whether it guards all SDK clients of the process"
)


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def llmguard_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    """A provider on loopback that says what the test tells it; SDK clients made in the test find it by themselves."""
    from llmguard.testing.provider import FakeProvider

    with FakeProvider() as provider:
        for name, value in provider.environment().items():
            monkeypatch.setenv(name, value)
        yield provider


@pytest.fixture
def llmguard_clock() -> Iterator[Clock]:
    """The guard's clock, which the test can move."""
    from llmguard.testing.clock import clock

    with clock() as made:
        yield made


@pytest.fixture
def llmguard_guard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """A guard of the test's own, the default one while it runs; its providers are those of `llmguard_provider` where
    the test has that. `@pytest.mark.llmguard("llmguard.yaml", instrument=True)` says what it is made of."""
    from llmguard.testing.isolated import isolated_guard

    beside = request.fixturenames
    provider: Any = request.getfixturevalue("llmguard_provider") if "llmguard_provider" in beside else None
    if "llmguard_clock" in beside:
        request.getfixturevalue("llmguard_clock")
    home: Path = tmp_path_factory.mktemp("llmguard")
    with isolated_guard(*_marked(request), home=home, provider=provider, **_options(request)) as guard:
        yield guard


def _marked(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    marker = request.node.get_closest_marker("llmguard")
    return () if marker is None else marker.args


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("llmguard")
    return {} if marker is None else dict(marker.kwargs)
