"""The spools: whether records can be written, and shipping what dead processes have left in theirs."""

# ruff: noqa: PLC0415  loaded when a command runs, and Redis only where it is used

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmguard.cli.common import MEMORY, say
from llmguard.errors import StoreUnavailable

if TYPE_CHECKING:
    from llmguard.core.moves import Move
    from llmguard.guard import Guard
    from llmguard.ledger import Ledger


def ship_dead_spools(guard: Guard, ledger: Ledger) -> None:
    """Post the records of dead processes, and tell a shared quota store what became of their calls.

    While such a store is away the spools are left to whoever can tell it. Raises LedgerUnavailable and ConfigError.
    """
    books = guard.books(ledger)
    if guard.config.store == MEMORY:
        books.adopt()
        return
    try:
        asyncio.run(guard.check_store())
        moves = books.adopt()
        if moves:
            _tell(guard.config.store, moves)
    except StoreUnavailable as error:
        say(f"{error}; records of dead processes may be missing until it does")


def _tell(url: str, moves: Sequence[Move]) -> None:
    from llmguard.stores.redis import RedisStore

    store = RedisStore(url)
    try:
        store.apply(moves)
    finally:
        store.close()


def unwritable(directory: Path) -> str | None:
    """Why no spool can be made in ``directory``; None when one can. Looks only, and makes nothing."""
    there = nearest(directory)
    if not there.is_dir():
        return f"{there} is no directory"
    return None if os.access(there, os.W_OK | os.X_OK) else f"this user may not write to {there}"


def nearest(path: Path) -> Path:
    """The path itself, or the directory in which it will be made."""
    return next(found for found in (path.absolute(), *path.absolute().parents) if found.exists())
