"""The plugin as users have it: pytest finds it by its entry point, and it costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import openai
import pytest
import sqlalchemy as sa

from llmguard.errors import ConfigError
from llmguard.guard import Guard, get_guard
from llmguard.integrations.httpx.patching import is_active
from llmguard.testing import FakeProvider, isolated_guard, spend

HEAVY = {"pydantic", "sqlalchemy", "httpx2", "http.server", "typer"}


def test_pytest_finds_it() -> None:
    (found,) = [point for point in entry_points(group="pytest11") if point.name == "llmguard"]
    assert found.value == "llmguard.testing.plugin"


def run(code: str, *, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_loads_nothing_at_the_start_of_a_run(tmp_path: Path) -> None:
    """Of llmguard a run without its fixtures loads the plugin alone."""
    (tmp_path / "test_other.py").write_text("def test_nothing():\n    pass\n")
    options = ["-q", "-p", "no:cacheprovider", "--disable-plugin-autoload", "-p", "llmguard.testing.plugin"]
    code = (
        f"import sys, pytest; assert pytest.main({options}) == 0\n"
        "print('LOADED', *sorted(m for m in sys.modules if m.startswith('llmguard')))\n"
        f"print('HEAVY', *({HEAVY} & sys.modules.keys()))"
    )
    *_, loaded, heavy = run(code, cwd=tmp_path).splitlines()
    assert loaded == "LOADED llmguard llmguard.testing llmguard.testing.plugin"
    assert heavy == "HEAVY"


def test_importing_it_takes_no_time(tmp_path: Path) -> None:
    code = (
        "import pytest, time; begun = time.perf_counter()\n"
        "import llmguard.testing.plugin, llmguard.testing\n"
        "print(time.perf_counter() - begun)"
    )
    assert min(float(run(code, cwd=tmp_path)) for _ in range(3)) < 0.02


def test_the_guard_is_the_default_one_and_alone(
    llmguard_guard: Guard, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = llmguard_guard.config
    assert get_guard() is llmguard_guard
    assert config.store == "memory://"
    assert str(tmp_path_factory.getbasetemp()) in config.ledger
    assert str(tmp_path_factory.getbasetemp()) in config.spool.path
    assert not config.development


@pytest.mark.llmguard(instrument=True)
def test_an_instrumented_guard_sees_clients_that_know_nothing_of_it(
    llmguard_guard: Guard, llmguard_provider: FakeProvider
) -> None:
    assert is_active()
    with spend() as spent, openai.OpenAI() as client:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert (spent.calls, spent.rows[0].provider, spent.rows[0].model) == (1, "openai", "gpt-4o")
    assert spent.cost_nano > 0


def test_nothing_stays_behind(tmp_path: Path) -> None:
    assert not is_active()
    before = get_guard()
    with isolated_guard(home=tmp_path, instrument=True) as guard:
        assert get_guard() is guard
        guard.process()
    assert get_guard() is before
    assert not is_active()
    assert not list(tmp_path.glob("spool/*"))
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert "llmguard_entries" in sa.inspect(engine).get_table_names()
    engine.dispose()


def test_a_configuration_of_ones_own_loses_what_reaches_outside(tmp_path: Path) -> None:
    file = tmp_path / "llmguard.yaml"
    file.write_text(
        "store: redis://127.0.0.1:1/0\n"
        "providers: {mine: {dialect: openai, base_url: https://llm.example/v1, keys: [sk-x]}}\n"
        "budgets: [{name: all, scope: {}, limit: $5, window: day}]\n"
        "alerts: [{url: https://hooks.example.com/x}]\n"
        "gateway: https://llm.corp.example\n"
    )
    with FakeProvider() as provider, isolated_guard(file, home=tmp_path, provider=provider) as guard:
        config = guard.config
        assert (config.store, config.alerts, config.gateway) == ("memory://", (), None)
        assert config.providers["mine"].base_url == provider.openai_url
        assert set(config.providers) == {"mine", "anthropic", "gemini"}
        assert config.budget_rules[0].name == "all"


def test_a_wrong_configuration_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="budgetz"), isolated_guard({"budgetz": []}):
        pass


def test_two_guards_do_not_meet(llmguard_guard: Guard, llmguard_provider: FakeProvider) -> None:
    with isolated_guard(provider=llmguard_provider) as other:
        assert get_guard() is other
        assert other.config.ledger != llmguard_guard.config.ledger
    assert get_guard() is llmguard_guard
