"""The commands as processes: what a newcomer types, in the order of the README."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmguard.core.money import usd_string
from tests.support.gateway import START_SECONDS, free_port

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("LLMGUARD_") and not k.endswith("_API_KEY")}


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of its own process."""
    command = [sys.executable, "-m", "llmguard", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=CLEAN, cwd=home, check=False)


@contextmanager
def serving(home: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`llmguard serve`, by the installed command; its output goes to `serve.log`."""
    command = [str(Path(sys.executable).with_name("llmguard")), "serve", "--port", str(port), *options]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=CLEAN, cwd=home)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            assert process.poll() is None, (home / "serve.log").read_text()
            assert time.monotonic() < deadline, f"not ready in {START_SECONDS} s"
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200
    except httpx2.TransportError:
        return False


def send(curl: str) -> httpx2.Response:
    """Do what a curl line says."""
    program, url, *options = shlex.split(curl)
    assert program == "curl"
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    (body,) = [value for option, value in given if option == "-d"]
    return httpx2.post(url, headers=headers, content=body, timeout=10)


def wait_for(what: Any, wanted: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while (found := what()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == wanted


def test_two_commands_on_a_fresh_machine(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, port) as process:
        printed = (tmp_path / "serve.log").read_text()
        curl = printed[printed.index("curl ") :].partition("\n\n")[0].replace("\\\n", "")
        reply = send(curl)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["role"] == "assistant"
        tokens = reply.json()["usage"]["total_tokens"]

        advised = shlex.split(printed.partition("in another terminal:")[2].splitlines()[0])
        assert advised[1:] == ["report", "--by", "team,env,feature", "--since", "1d"]

        def reported() -> list[list[str]]:
            done = subprocess.run(advised, capture_output=True, text=True, env=CLEAN, cwd=tmp_path, check=False)
            assert done.returncode == 0, done.stderr
            return [line.split() for line in done.stdout.splitlines()[1:]]

        usage = [str(reply.json()["usage"][name]) for name in ("prompt_tokens", "completion_tokens")]
        sums = ["1", *usage, "0", usd_string(tokens * 1_000), "0", "0"]
        wait_for(reported, [["dev", "dev", "dev", *sums], ["total", "-", "-", *sums]])

        again = run(tmp_path, "serve", "--port", str(port))
        said = f"llmguard: 127.0.0.1:{port} is taken by another program; stop that one, or choose another --port\n"
        assert (again.returncode, again.stdout, again.stderr) == (1, "", said)

        key_id = curl.partition("lg_dev_")[2].partition("_")[0]
        assert run(tmp_path, "keys", "revoke", key_id).returncode == 0
        wait_for(lambda: send(curl).status_code, 401, seconds=3.0)

        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert list((tmp_path / "spool").iterdir()) == []
    assert (tmp_path / "llmguard.db.secrets").stat().st_mode & 0o777 == 0o600


def test_the_quickstart_spends_its_cent_and_is_refused(tmp_path: Path) -> None:
    port, options = free_port(), ("--config", str(QUICKSTART / "llmguard.yaml"))
    with serving(tmp_path, port, *options):
        key = run(tmp_path, "keys", "create", "--team", "search", *options).stdout.strip()
        env = CLEAN | {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": key}
        command = [sys.executable, str(QUICKSTART / "ask.py")]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path, check=False)
        assert asked.returncode == 0, asked.stderr
        whole, stream, *calls, refused, why = asked.stdout.splitlines()
        assert whole.removeprefix("whole:  ") == stream.removeprefix("stream: ")
        assert calls == [f"call {number}: 2000 tokens" for number in range(1, 5)]
        assert refused == "refused: 429 budget_insufficient"
        assert "rule 'team-daily', team 'search'" in why

        def spent() -> str:
            total = json.loads(run(tmp_path, "report", "--json", *options).stdout)["total"]
            return f"{total['calls']} calls, ${total['cost_usd']}"

        wait_for(spent, "6 calls, $0.008078")


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_wrong_configuration_starts_nothing(tmp_path: Path, command: str) -> None:
    (tmp_path / "llmguard.yaml").write_text(
        "providers: {sandbox: {dialect: sandbox}}\nbudgets: [{name: a, limit: 5}]\n"
    )
    done = run(tmp_path, command)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert "llmguard.yaml:2: budgets[0].limit is 5, an amount without a unit; write $50 or 2M tokens" in lines
    assert all(line.startswith("llmguard.yaml:2: ") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["llmguard.yaml"]
