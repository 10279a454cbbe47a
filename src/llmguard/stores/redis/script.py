"""The script, the keyspace it works in, and the commands that run it."""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files

SCHEMA = 1
"""Version of the keys' layout; part of every key's name."""

_LUA = files(__package__) / "lua"
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def _joined() -> str:
    parts = sorted((_LUA / "moves").iterdir(), key=lambda part: part.name)
    return "\n".join(part.read_text("utf-8") for part in parts if part.name.endswith(".lua"))


MOVES = _joined()
WIPE = (_LUA / "wipe.lua").read_text("utf-8")

Command = tuple[str | bytes | int, ...]


class Keyspace:
    """The keys of one namespace, all in one slot of a cluster by their hash tag.

    ``tested`` names a keyspace apart, in which the script takes its time from the caller. Raises ValueError for a
    namespace that could break out of its tag.
    """

    def __init__(self, namespace: str, tested: bool = False) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"namespace {namespace!r} may hold only letters, digits and _ . : - (at most 64)")
        self.prefix = f"llmguard{'-test' if tested else ''}:{SCHEMA}:{{{namespace}}}:"
        digest = sha1(MOVES.encode(), usedforsecurity=False).hexdigest()
        self._by_hash: Command = ("EVALSHA", digest, 1, self.prefix)
        self._in_full: Command = ("EVAL", MOVES, 1, self.prefix)

    def by_hash(self, *arguments: bytes | int) -> Command:
        """The command that runs a batch, with a time only in a keyspace of tests."""
        return (*self._by_hash, *arguments)

    def in_full(self, *arguments: bytes | int) -> Command:
        """The same with the script itself, for a server that does not know it yet."""
        return (*self._in_full, *arguments)


def packed(command: Command) -> bytes:
    """A command as it goes over the wire (RESP)."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        raw = argument if isinstance(argument, bytes) else str(argument).encode()
        parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)
