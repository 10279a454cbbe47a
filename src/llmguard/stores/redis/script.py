"""The script, the keyspace it works in, and the commands that run it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

SCHEMA = 1
"""Version of the keys' layout; part of every key's name."""

_LUA = files(__package__) / "lua"
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

Command = tuple[str | bytes | int, ...]


def _library() -> tuple[str, str]:
    """The function's name and its library. The name carries the text's hash, so that versions live side by side."""
    parts = sorted((_LUA / "moves").iterdir(), key=lambda part: part.name)
    text = "\n".join(part.read_text("utf-8") for part in parts if part.name.endswith(".lua"))
    name = f"llmguard_{SCHEMA}_{sha256(text.encode()).hexdigest()[:12]}"
    return name, f"#!lua name={name}\nlocal NAME = '{name}'\n{text}"


FUNCTION, LIBRARY = _library()
WIPE = (_LUA / "wipe.lua").read_text("utf-8")
INSTALL: Command = ("FUNCTION", "LOAD", "REPLACE", LIBRARY)
MISSING = "Function not found"
"""How a server that has not got the library answers."""


def prefix(namespace: str, tested: bool = False) -> str:
    """What every key of ``namespace`` starts with; the hash tag keeps them in one slot of a cluster.

    ``tested`` names a keyspace apart, in which the script takes its time from the caller. Raises ValueError for a
    namespace that could break out of its tag.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"namespace {namespace!r} may hold only letters, digits and _ . : - (at most 64)")
    return f"llmguard{'-test' if tested else ''}:{SCHEMA}:{{{namespace}}}:"


def invocation(key_prefix: str, flat: bytes, blobs: Sequence[bytes], now: int | None) -> Command:
    """The command that runs a batch; ``now`` only in a keyspace of tests."""
    return ("FCALL", FUNCTION, 1, key_prefix, flat, b"" if now is None else now, *blobs)


def packed(command: Command) -> bytes:
    """A command as it goes over the wire (RESP)."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        raw = argument if isinstance(argument, bytes) else str(argument).encode()
        parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)
