"""`manage.py llmguard`: any command, on the guard of the settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from llmguard.integrations.django.management.commands.llmguard import Command
from tests.unit.integrations.django.conftest import config

Setting = Callable[..., None]


def called(*arguments: str) -> str:
    out = StringIO()
    call_command("llmguard", *arguments, stdout=out)
    return out.getvalue()


def test_commands_work_on_the_ledger_of_the_settings(llmguard_setting: Setting, tmp_path: Path) -> None:
    llmguard_setting(LEDGER=f"sqlite:///{tmp_path / 'named.db'}")
    made = json.loads(called("keys", "create", "--team", "search", "--env", "prod", "--feature", "chat", "--json"))
    assert (made["team"], (tmp_path / "named.db").exists()) == ("search", True)
    assert json.loads(called("report", "--by", "team", "--json"))["rows"] == []
    assert json.loads(called("config", "show", "--json"))["spool"]["path"] == str(tmp_path / "spool")
    assert called("check-config") == "the configuration is right\n"


def test_a_failure_is_a_command_error_with_the_status(llmguard_setting: Setting, tmp_path: Path) -> None:
    llmguard_setting(CONFIG=config(tmp_path) | {"stroe": "x"})
    with pytest.raises(CommandError, match="`llmguard check-config` failed") as caught:
        called("check-config")
    assert caught.value.returncode == 2


def test_on_the_command_line_the_status_is_the_command_s(
    llmguard_setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    llmguard_setting()
    with pytest.raises(SystemExit) as caught:
        Command().run_from_argv(["manage.py", "llmguard", "report", "--by", "nothing"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        Command().run_from_argv(["manage.py", "llmguard", "migrate", "--json"])
    assert not caught.value.code
    assert json.loads(capsys.readouterr().out)["current"] is True


def test_help_is_the_command_line_s(llmguard_setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    llmguard_setting()
    Command().print_help("manage.py", "llmguard")
    said = capsys.readouterr().out
    assert "Usage: manage.py llmguard" in said
    assert "report" in said


def test_workers_of_a_gateway_cannot_read_the_settings(
    llmguard_setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llmguard_setting(CONFIG=config(tmp_path) | {"store": "redis://127.0.0.1:9/0"})
    with pytest.raises(SystemExit) as caught:
        Command().run_from_argv(["manage.py", "llmguard", "serve", "--workers", "2"])
    assert caught.value.code == 2
    assert "--workers: worker processes cannot read this program's settings" in capsys.readouterr().err
