"""The example project and the demo that runs it, as a newcomer would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from llmguard.cli.demo_stage import Sandbox, example, worker
from tests.support.valkey import ValkeyServer

CALL_USD = Decimal("0.293275")
"""What a call of the broken task costs."""

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("LLMGUARD_") and not k.endswith("_API_KEY")}


def test_the_two_commands_of_its_readme(tmp_path: Path) -> None:
    with ValkeyServer() as server, Sandbox(0.05) as sandbox:
        environment = CLEAN | {
            "BROKER_URL": server.tcp_url,
            "OPENAI_API_KEY": "sandbox",
            "OPENAI_BASE_URL": sandbox.url,
            "LLMGUARD_CONFIG": str(example() / "llmguard.yaml"),
            "LLMGUARD_PROVIDERS__OPENAI__BASE_URL": sandbox.url,
            "LLMGUARD_PROVIDERS__OPENAI__INTERNAL": "true",
            "LLMGUARD_STORE": server.tcp_url,
            "LLMGUARD_LEDGER": f"sqlite:///{tmp_path / 'llmguard.db'}",
            "LLMGUARD_SPOOL__PATH": str(tmp_path / "spool"),
        }
        with worker(tmp_path, environment, "celery"):
            command = [sys.executable, "enqueue.py"]
            done = subprocess.run(
                command, env=environment, cwd=example(), capture_output=True, text=True, timeout=90, check=False
            )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all("Sandbox reply" in line for line in lines[:3])
    assert re.fullmatch(r"digest +[0-9a-f-]{36}", lines[3])
    assert "was stopped by max_paid_attempts: 4 of 4 paid attempts" in lines[4]
    # Three summaries, a digest of three and its end, and the broken task's four.
    assert sandbox.calls == 3 + 4 + 4


def test_the_demo_stops_the_runaway_and_leaves_nothing_running(tmp_path: Path) -> None:
    environment = CLEAN | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "llmguard", "demo"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "FAILURE  tasks.extract" in done.stdout
    assert done.stdout.count(" SUCCESS  ") == 5
    assert re.search(r"\$ llmguard trips reset task:[0-9a-f-]{36}:0\n.*may run again", done.stdout)
    assert found(r"\$(\S+)  paid by the guarded job, 4 calls of \$0\.29", done.stdout) == Decimal("1.17")
    rate = found(r"extrapolation: (\S+) calls a second", done.stdout)
    weekend = found(r"\$(\S+)  the same job without the guard", done.stdout)
    assert weekend == pytest.approx(CALL_USD * rate * 3600 * 63, rel=Decimal("0.05"))
    assert list(tmp_path.iterdir()) == []
    assert not [line for line in commands() if str(tmp_path) in line or "@demo" in line]


def found(pattern: str, text: str) -> Decimal:
    """The amount that a pattern finds."""
    match = re.search(pattern, text)
    assert match is not None, text
    return Decimal(match[1].replace(",", ""))


def commands() -> list[str]:
    """The command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return lines
