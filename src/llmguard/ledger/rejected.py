"""Records that cannot become rows: mended where that is possible, else kept in a file for a person.

One such record must not hold up the others behind it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from llmguard.core.records import Entry, Record, SettleRecord
from llmguard.ledger import codec

REJECTED = "rejected.jsonl"
_INT64_MAX = (1 << 63) - 1

_log = logging.getLogger("llmguard.ledger")


def decoded(payload: bytes, directory: Path) -> Record | None:
    """The record in a payload; None for one whose fields are not of their types, which is kept and logged."""
    try:
        return codec.decode(payload)
    except msgspec.ValidationError as error:
        keep(directory, msgspec.msgpack.decode(payload), error)
        return None


def mended(record: SettleRecord) -> SettleRecord:
    """The nearest record that a database takes: PostgreSQL has no NUL in text, and neither more than 64 bits."""
    return record._replace(entry=Entry(*map(_mend, record.entry)))


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(min(value, _INT64_MAX), -_INT64_MAX)
    return value


def keep(directory: Path, record: Any, reason: Exception) -> None:
    """Append a record to ``rejected.jsonl`` in ``directory``, perhaps more than once.

    Its money is in no report until somebody has seen to it.
    """
    _log.error("a record cannot become a row and is kept in %s: %s", directory / REJECTED, reason)
    fd = os.open(directory / REJECTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
