"""Records that the database does not take: mended where that is possible, else kept in a file for a person."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from llmguard.core.records import Entry, SettleRecord

REJECTED = "rejected.jsonl"
_INT64_MAX = (1 << 63) - 1


def mended(record: SettleRecord) -> SettleRecord:
    """The nearest record that a database takes: PostgreSQL has no NUL in text, and neither more than 64 bits."""
    return record._replace(entry=Entry(*map(_mend, record.entry)))


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(min(value, _INT64_MAX), -_INT64_MAX)
    return value


def keep_rejected(directory: Path, record: SettleRecord) -> None:
    """Append a record to ``rejected.jsonl`` in ``directory``, on the disk."""
    fd = os.open(directory / REJECTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
