"""What calls said and heard, where it is kept; the rows are deleted when their time is over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from llmguard.ledger.audit import Trail, plain
from llmguard.ledger.clock import Clock, now_ms
from llmguard.ledger.engine import writing
from llmguard.ledger.models import payloads
from llmguard.ledger.statements import upsert


@dataclass(frozen=True, slots=True)
class Payload:
    """One call's texts as they are kept: capped, and without what was masked where ``redacted``.

    ``event_id`` is the call's request id, ``at`` epoch milliseconds. ``prompt_bytes`` and ``reply_bytes`` are the sizes
    of the whole, whatever is kept of it.
    """

    event_id: str
    at: int
    org: str
    team: str
    prompt: str
    reply: str
    prompt_bytes: int
    reply_bytes: int
    redacted: bool


class Payloads:
    """The kept payloads of one ledger. ``clock`` returns epoch milliseconds. All methods raise LedgerUnavailable."""

    def __init__(self, engine: Engine, trail: Trail, clock: Clock = now_ms) -> None:
        self._engine = engine
        self._trail = trail
        self._clock = clock

    def add(self, payload: Payload) -> None:
        """Keep a payload; one that is there already stays as it is."""
        row = {name: plain(value) if isinstance(value, str) else value for name, value in asdict(payload).items()}
        with writing(self._engine) as connection:
            connection.execute(upsert(connection, payloads).values(row).on_conflict_do_nothing())

    def read(self, event_id: str, actor: str) -> Payload | None:
        """A call's payload, None where none is kept. That ``actor`` has read it is put on the audit trail first."""
        with writing(self._engine) as connection:
            row: Any = connection.execute(sa.select(payloads).where(_is(event_id))).first()
            if row is None:
                return None
            self._trail.append(connection, actor, "payload.read", event_id, {"org": row.org, "team": row.team})
        return Payload(**row._mapping)

    def forget(self, keep_ms: int) -> int:
        """Delete those that are older; how many they were."""
        with writing(self._engine) as connection:
            return connection.execute(sa.delete(payloads).where(payloads.c.at < self._clock() - keep_ms)).rowcount


def _is(event_id: str) -> sa.ColumnElement[bool]:
    """As text, since PostgreSQL takes nothing but an id for one."""
    return sa.cast(payloads.c.event_id, sa.Text) == event_id
