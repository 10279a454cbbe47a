"""A command line of their own for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """`llmguard` in an empty directory."""
    commands = Cli(tmp_path, monkeypatch)
    yield commands
    commands.close()
