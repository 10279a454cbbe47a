"""The tests that the page about testing shows are run, in a pytest of their own, and pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from llmguard.testing.stores import StoreSuite

INHERITED = len([name for name in dir(StoreSuite) if name.startswith("test_")]) - 1 + len(StoreSuite.seeds)
"""The tests of a store: one of them runs once for each seed."""

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_page_shows_passes(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for number, block in enumerate(blocks):
        (tmp_path / f"test_block_{number}.py").write_text(block)
    tests = sum(block.count("\ndef test_") for block in blocks) + INHERITED
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LLMGUARD"))}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error::pytest.PytestUnknownMarkWarning"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"{tests} passed" in done.stdout
