"""The example application: its own tests, and its two commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support.web_servers import web_server

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of it."""
    home = tmp_path / "example"
    shutil.copytree(EXAMPLE, home, ignore=shutil.ignore_patterns("__pycache__", "*.db*", "spool"))
    return home


def test_its_own_tests_pass(example: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LLMGUARD"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        command, cwd=example, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_it_is_served_and_takes_notes(example: Path) -> None:
    env = {"OPENAI_API_KEY": "sk-none", "PYTHONPATH": str(example)}
    with web_server("uvicorn", "main:app", example, probe="/", env=env, extra=("--app-dir", str(example))) as server:
        added = httpx2.post(server.url + "/notes", json={"text": "We meet on Monday."})
        assert (added.status_code, added.json()) == (201, {"id": 1})
        page = httpx2.get(server.url).text
        assert "<li>We meet on Monday.</li>" in page
        assert "<li>team-daily: $5.0000 of $5.00</li><li>author-daily: $1.0000 of $1.00</li>" in page
        assert httpx2.post(server.url + "/llm/v1/chat/completions", json={}).status_code in (400, 401)
        server.stop()
        assert "Traceback" not in server.log.read_text()
