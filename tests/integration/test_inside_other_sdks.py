"""SDKs of the time before httpx2, and google-genai with and without aiohttp, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.inside import configuration, ledger_rows, sandbox
from tests.support.upstream import upstream

ROOT = Path(__file__).parents[2]
OLD = ROOT / ".venv" / "old-sdks"
CENT = {"name": "a-cent", "scope": {"team": "*"}, "limit": "$0.01", "window": "day"}
REPLY = ": Hello"


PROCESS = "import runpy; runpy.run_module('tests.support.sdk_process', run_name='__main__')"
WITHOUT_AIOHTTP = f"import sys; sys.modules['aiohttp'] = None; {PROCESS}"


def _calls(
    home: Path, how: str, first_on_path: Path | None = None, program: str = PROCESS
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """What the process said, the rows it left, and how many requests reached the provider."""
    with upstream() as provider:
        provider.reply(sandbox())
        config = configuration(home, provider.origin, budgets=[CENT])
        path = home / "llmguard.yaml"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        command = [sys.executable, "-c", program, str(path), provider.origin, how]
        paths = [str(first) for first in (first_on_path, ROOT, ROOT / "src") if first is not None]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, cwd=home, check=False
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        return json.loads(done.stdout), ledger_rows(config["ledger"]), len(provider.requests)


@pytest.mark.parametrize("how", ["client", "instrument"])
def test_old_sdks_are_guarded_alike(tmp_path: Path, how: str) -> None:
    if not OLD.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{OLD} is missing: make {OLD.name}.stamp")
        pytest.skip("the old SDKs are not installed: make .venv/old-sdks.stamp")
    said, rows, requests = _calls(tmp_path, how, OLD)
    assert (said["openai"].split(".")[0], said["anthropic"].split(".")[0]) == ("1", "0")
    assert [text[-len(REPLY) :] for text in said["said"]] == [REPLY] * 8
    assert (said["code"], said["scope"]) == ("budget_exceeded", {"team": "search"})
    assert len(rows) == requests == 9
    assert {(row["team"], row["usage_source"]) for row in rows} == {("search", "provider")}


@pytest.mark.parametrize(
    ("how", "program"),
    [("client", PROCESS), ("instrument", PROCESS), ("instrument", WITHOUT_AIOHTTP)],
    ids=["client", "instrument", "instrument-without-aiohttp"],
)
def test_google_is_guarded_with_and_without_aiohttp(tmp_path: Path, how: str, program: str) -> None:
    said, rows, requests = _calls(tmp_path, how, program=program)
    assert [text[-len(REPLY) :] for text in said["said"]] == [REPLY] * 10
    assert said["code"] == "budget_exceeded"
    assert len(rows) == requests == 11
    assert [row["dialect"] for row in rows].count("gemini_generate") == 2
