"""`llmguard alerts`: receivers get a test that they can verify, by the code that the docs show."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from llmguard.sinks.webhook import SIGNATURE, signature
from tests.support.cli import SANDBOX, Cli
from tests.support.receiver import receiver

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"


def configure(cli: Cli, *urls: str) -> None:
    cli.configure(SANDBOX + "alerts: [" + ", ".join(f"{{url: {url}, internal: true}}" for url in urls) + "]\n")


def documented() -> Any:
    """`read_alert` of the documentation."""
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def read_alert" in b]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["read_alert"]


def test_a_test_alert_is_verified_by_the_documented_code(cli: Cli) -> None:
    with receiver() as there:
        configure(cli, f"{there.url}/token")
        assert cli.ok("alerts", "test") == "127.0.0.1 has it\n"
        (got,) = there.got
    (key,) = cli.json("alerts", "key")
    assert cli.ok("alerts", "key") == f"{key}\n"
    read, seen = documented(), set[str]()
    sign = got.headers[SIGNATURE]
    assert read(sign, got.body + b" ", key, seen) is None
    assert read(sign, got.body, "0" * 64, seen) is None
    alert = read(sign, got.body, key, seen)
    assert (alert["type"], alert["text"]) == ("test", "this is a test of llmguard's alerts")
    assert read(sign, got.body, key, seen) is None
    now = int(time.time())
    rotating = ["1" * 64, key]
    for seconds, good in ((now - 299, True), (now - 320, False), (now + 320, False)):
        assert (read(signature(rotating, seconds, got.body), got.body, key, set()) is not None) is good


def test_a_receiver_that_does_not_hear(cli: Cli) -> None:
    with receiver() as there, receiver() as other:
        there.answers = [503, 307]
        configure(cli, f"{there.url}/token", other.url)
        result = cli.run("alerts", "test")
        assert (result.exit_code, result.stdout) == (
            1,
            "not delivered: 127.0.0.1 answered 503\n127.0.0.1 has it\n",
        )
        found = json.loads(cli.run("alerts", "test", "--json").stdout)
        assert [row["delivered"] for row in found] == [False, True]
        assert [got.path for got in there.got] == ["/token", "/token"]


def test_without_receivers_it_says_what_to_write(cli: Cli) -> None:
    cli.configure(SANDBOX)
    assert "there are no receivers; write alerts: [" in cli.fails(1, "alerts", "test")


def test_addresses_are_shown_nowhere(cli: Cli) -> None:
    configure(cli, "http://10.0.0.1/services/T0KEN")
    assert "T0KEN" not in cli.ok("config", "show") + cli.ok("doctor")


@pytest.mark.parametrize("state", ["ok", "warning"])
def test_doctor_looks_whether_receivers_take_connections(cli: Cli, state: str) -> None:
    with receiver() as there:
        configure(cli, there.url)
        host = there.url.removeprefix("http://")
        if state == "ok":
            found = cli.json("doctor")[-1]
            assert found["detail"] == f"{host} takes connections; `llmguard alerts test` sends one"
    if state == "warning":
        found = cli.json("doctor")[-1]
        assert "Connection refused" in found["detail"]
    assert (found["subject"], found["state"]) == ("alerts[0]", state)
