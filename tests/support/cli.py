"""Runs `llmguard` commands in this process, in a directory of their own and without this machine's variables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmguard.cli.root import app
from llmguard.config import load
from llmguard.guard import Guard
from llmguard.ledger import Ledger

SANDBOX = "providers: {sandbox: {dialect: sandbox}}\n"
"""The smallest right configuration."""


class Cli:
    """`llmguard` in the directory ``home``; ``config`` is written to its `llmguard.yaml`."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._ledger: Ledger | None = None
        patch.chdir(home)
        for name in os.environ:
            if name.startswith("LLMGUARD_") or name.endswith("_API_KEY"):
                patch.delenv(name)

    def configure(self, text: str) -> Path:
        """Write `llmguard.yaml`."""
        path = self.home / "llmguard.yaml"
        path.write_text(text)
        return path

    def run(self, *arguments: str) -> Result:
        """Run a command, whatever becomes of it."""
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *arguments: str) -> str:
        """Run a command that succeeds; returns what it printed."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """Run a command that succeeds with `--json`; returns the document."""
        return json.loads(self.ok(*arguments, "--json"))

    def fails(self, code: int, *arguments: str) -> str:
        """Run a command that fails with this exit status; returns what it said."""
        result = self.run(*arguments)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        return result.stderr

    def guard(self) -> Guard:
        """The guard of the configuration that the commands see."""
        return Guard(load())

    def ledger(self) -> Ledger:
        """Its ledger, ready; :meth:`close` closes it."""
        if self._ledger is None:
            self._ledger = self.guard().ledger()
            self._ledger.make_ready()
        return self._ledger

    def close(self) -> None:
        """Give back what was opened."""
        if self._ledger is not None:
            self._ledger.close()

    def files(self) -> set[str]:
        """What lies in the directory."""
        return {path.name for path in self.home.iterdir()}
