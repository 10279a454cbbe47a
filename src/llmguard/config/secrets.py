"""The guard's own secrets: judged, made, and kept beside an SQLite ledger."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from llmguard.config.schema import Config
from llmguard.errors import ConfigError, Problem

PURPOSES: Final = ("pepper", "signing", "cache")
BITS: Final = 256
_HEX = re.compile(r"[0-9a-fA-F]+")
_LEAST_VARIETY = 10


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The secrets in force. Of a list the first one writes and all of them read. Never shown."""

    pepper: bytes
    signing: tuple[bytes, ...]
    cache: tuple[bytes, ...]

    def __repr__(self) -> str:
        return "Secrets(…)"


def fresh() -> str:
    """A new secret of 256 bits, as 43 characters that need no quoting."""
    return secrets.token_urlsafe(BITS // 8)


def too_weak(secret: str) -> bool:
    """Whether a secret cannot hold 256 bits: 64 hexadecimal or 43 other characters, and not a few of them repeated."""
    bits_each = 4 if _HEX.fullmatch(secret) else 6
    return len(secret) * bits_each < BITS or len(set(secret)) < _LEAST_VARIETY


def ledger_file(ledger: str) -> Path | None:
    """The file of an SQLite ledger, None for a server or a database in memory."""
    parts = urlsplit(ledger)
    if parts.scheme != "sqlite" or parts.path in ("", "/", "/:memory:"):
        return None
    return Path(parts.path[1:])


def ensure_secrets(config: Config) -> Secrets:
    """The configured secrets; those that are missing beside an SQLite ledger are made once and kept there.

    The file is the ledger's name with `.secrets` after it, mode 0600. Several processes that start at once agree on one
    file. Raises :class:`llmguard.errors.ConfigError` when it cannot be made or read, when others may read it, and when
    secrets are missing and the ledger is no SQLite file (:func:`llmguard.config.load` has said so before).
    """
    given = config.secrets
    pepper, signing, cache = given.pepper, given.signing, given.cache
    if pepper is None or not given.complete:
        kept = _kept(config)
        pepper = pepper or SecretStr(kept["pepper"])
        signing = signing or tuple(map(SecretStr, kept["signing"]))
        cache = cache or tuple(map(SecretStr, kept["cache"]))
    return Secrets(_bytes(pepper), tuple(map(_bytes, signing)), tuple(map(_bytes, cache)))


def _bytes(secret: SecretStr) -> bytes:
    return secret.get_secret_value().encode()


def _kept(config: Config) -> dict[str, Any]:
    ledger = ledger_file(config.ledger)
    if ledger is None:
        raise ConfigError([missing_secrets("secrets")])
    path = ledger.with_name(ledger.name + ".secrets")
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            [Problem(str(path), f"the secrets kept here cannot be used ({error})", "restore the file from a backup")]
        ) from None


def _make(path: Path) -> None:
    """Write a new file whole or not at all; where another process was faster, its file stays."""
    text = json.dumps({"pepper": fresh(), "signing": [fresh()], "cache": [fresh()]}, indent=2)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(draft)


def _read(path: Path) -> dict[str, Any]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError([Problem(str(path), f"others may read the secrets (mode {mode:04o})", f"chmod 600 {path}")])
    kept = json.loads(path.read_text("utf-8"))
    if not (kept["pepper"] and kept["signing"] and kept["cache"]):
        raise ValueError("one of them is empty")
    return {"pepper": str(kept["pepper"]), "signing": list(kept["signing"]), "cache": list(kept["cache"])}


def missing_secrets(where: str) -> Problem:
    """The problem of a server ledger without secrets, with three fresh ones to copy."""
    return Problem(
        where,
        "secrets are missing, and with a ledger on a server they are not made for you: every process needs the same",
        f'write these, and keep them: secrets: {{pepper: "{fresh()}", signing: ["{fresh()}"], cache: ["{fresh()}"]}}',
    )
