"""Gets past a record that the database does not take: mended if it can be, kept in a file for a person if not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Engine

from llmguard.core.records import Entry, SettleRecord
from llmguard.ledger.engine import rejections, writing
from llmguard.ledger.posting import Posting

REJECTED = "rejected.jsonl"
_INT64_MAX = (1 << 63) - 1

_log = logging.getLogger("llmguard.ledger")


def post_singly(engine: Engine, records: Iterable[SettleRecord], directory: Path) -> None:
    """Post records one by one after their batch was refused.

    A record that is refused even when mended is appended to ``rejected.jsonl`` in ``directory`` and logged as an error:
    its money is in no report until somebody has dealt with it. Raises :class:`llmguard.errors.LedgerUnavailable`.
    """
    for record in records:
        if _taken(engine, record) is None:
            continue
        reason = _taken(engine, record._replace(entry=Entry(*map(_mend, record.entry))))
        if reason is not None:
            _keep(directory / REJECTED, record)
            _log.error("ledger refused the row of call %s: %s", record.entry.event_id, reason)


def _taken(engine: Engine, record: SettleRecord) -> Exception | None:
    try:
        with writing(engine) as connection:
            posting = Posting(connection)
            posting.add([record])
            posting.finish()
    except rejections(engine) as error:
        return error
    return None


def _mend(value: Any) -> Any:
    """The nearest value that a database takes: PostgreSQL has no NUL in text, neither has more than 64 bits."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(min(value, _INT64_MAX), -_INT64_MAX)
    return value


def _keep(path: Path, record: SettleRecord) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
