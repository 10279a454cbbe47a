"""The guard's own secrets: judged, made once, kept private."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmguard.config import Config, check, ensure_secrets, load
from llmguard.config.secrets import fresh, ledger_file, too_weak
from llmguard.errors import ConfigError


def config(ledger: str, **secrets: object) -> Config:
    return load({"ledger": ledger, "secrets": secrets, "providers": {"s": {"dialect": "sandbox"}}}, {})


def test_strength() -> None:
    assert not any(too_weak(fresh()) for _ in range(200))
    assert not too_weak("0123456789abcdef" * 4)
    for weak in ("", "changeme", "0123456789abcdef" * 3, "a" * 100, "abcabcabc" * 10):
        assert too_weak(weak)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///llmguard.db", Path("llmguard.db")),
        ("sqlite:////var/lib/llmguard.db", Path("/var/lib/llmguard.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://localhost/llmguard", None),
    ],
)
def test_the_ledgers_file(url: str, path: Path | None) -> None:
    assert ledger_file(url) == path


def test_missing_ones_are_made_once_beside_the_ledger(tmp_path: Path) -> None:
    ledger = f"sqlite:///{tmp_path}/llmguard.db"
    first = ensure_secrets(config(ledger))
    assert ensure_secrets(config(ledger)) == first
    kept = tmp_path / "llmguard.db.secrets"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["llmguard.db.secrets"]
    assert len({first.pepper, *first.signing, *first.cache}) == 3
    assert not too_weak(first.pepper.decode())
    assert first.pepper.decode() not in repr(first)


def test_configured_ones_win_and_all_of_them_need_no_file(tmp_path: Path) -> None:
    ledger = f"sqlite:///{tmp_path}/l.db"
    pepper, signing, cache = fresh(), [fresh(), fresh()], [fresh()]
    made = ensure_secrets(config(ledger, pepper=pepper, signing=signing, cache=cache))
    assert made.pepper == pepper.encode()
    assert made.signing == tuple(s.encode() for s in signing)
    assert list(tmp_path.iterdir()) == []
    mixed = ensure_secrets(config(ledger, pepper=pepper))
    assert mixed.pepper == pepper.encode()
    assert mixed.signing == ensure_secrets(config(ledger)).signing


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from llmguard.config import *; "
        "c = load({'ledger': sys.argv[1], 'providers': {'s': {'dialect': 'sandbox'}}}, {}); "
        "print(ensure_secrets(c).pepper)"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/l.db"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    assert len({process.communicate(timeout=60)[0] for process in running}) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pepper": "", "signing": [], "cache": []}'])
def test_a_broken_file_is_never_replaced(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "l.db.secrets"
    kept.write_text(text)
    kept.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be used"):
        ensure_secrets(config(f"sqlite:///{tmp_path}/l.db"))
    assert kept.read_text() == text


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    ledger = f"sqlite:///{tmp_path}/l.db"
    ensure_secrets(config(ledger))
    (tmp_path / "l.db.secrets").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        ensure_secrets(config(ledger))


def test_a_directory_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("l.db.secrets")):
        ensure_secrets(config(f"sqlite:///{tmp_path}/none/l.db"))


def test_a_server_ledger_without_secrets_prints_three_fresh_ones() -> None:
    source = {"ledger": "postgresql://h/d", "providers": {"s": {"dialect": "sandbox"}}}
    (problem,) = check(source, {})
    written = problem.fix.partition("secrets: ")[2]
    made = re.findall(r'"([^"]+)"', written)
    assert len(set(made)) == 3
    secrets = json.loads(re.sub(r"(\w+):", r'"\1":', written))
    assert check({**source, "secrets": secrets}, {}) == []
    assert load({**source, "secrets": secrets}, {}).secrets.complete
