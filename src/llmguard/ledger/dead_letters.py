"""Dead letters: the messages of tasks that the runaway guard has stopped, kept so that they can be run again.

A letter is run again at most once. It is claimed under a new task id and audited, then published, then marked as such.
Whoever fails in between leaves a claim, which is repeated after a minute *under the same task id*, so that a message
that did go out is recognised as a duplicate by the guard of the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from llmguard.ledger.audit import Trail, plain
from llmguard.ledger.clock import Clock, now_ms
from llmguard.ledger.engine import reading, writing
from llmguard.ledger.models import dead_letters as letters
from llmguard.ledger.statements import upsert

CLAIM_MS = 60_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A stopped task's message, without anything of its broker.

    ``body`` is ``(args, kwargs)`` as kombu serialised it, named by ``content_type`` and ``content_encoding``.
    ``options`` is a JSON object of keyword arguments for Celery's `send_task` (queue, priority, link, chord …).
    ``rule`` names the rule that stopped it, ``reason`` is a sentence. Times are epoch milliseconds.
    """

    id: str
    at: int
    task: str
    task_id: str
    org: str
    team: str
    env: str
    feature: str
    rule: str
    reason: str
    content_type: str
    content_encoding: str
    body: bytes
    options: str = "{}"
    tree_id: str | None = None
    requeued_at: int | None = None
    requeued_by: str | None = None
    requeued_as: str | None = None
    published_at: int | None = None

    @property
    def status(self) -> str:
        """`kept`, `claimed` (somebody is at it, or failed at it), or `requeued`."""
        if self.published_at is not None:
            return "requeued"
        return "kept" if self.requeued_at is None else "claimed"


class DeadLetters:
    """The dead letters of one ledger. ``clock`` returns epoch milliseconds. All methods raise LedgerUnavailable."""

    def __init__(self, engine: Engine, trail: Trail, clock: Clock = now_ms) -> None:
        self._engine = engine
        self._trail = trail
        self._clock = clock

    def add(self, letter: DeadLetter) -> bool:
        """Keep a letter; False where one with this id is there already."""
        row = {name: plain(value) if isinstance(value, str) else value for name, value in asdict(letter).items()}
        with writing(self._engine) as connection:
            insert = upsert(connection, letters).values(row).on_conflict_do_nothing()
            return connection.execute(insert.returning(letters.c.id)).first() is not None

    def waiting(self) -> int:
        """How many letters were not run again."""
        query = sa.select(sa.func.count()).select_from(letters).where(letters.c.published_at.is_(None))
        with reading(self._engine) as connection:
            return int(connection.scalar(query) or 0)

    def claim(
        self, new_id: Callable[[], str], actor: str, *, ids: Sequence[str] = (), limit: int = 1
    ) -> list[DeadLetter]:
        """Claim the oldest letters, or those of ``ids``, for running again, each with its audit record.

        A claimed letter's ``requeued_as`` is the task id to publish it under; ``new_id`` makes one. Tell of the
        publication with :meth:`published`.
        """
        now = self._clock()
        free = letters.c.requeued_at.is_(None) | (letters.c.requeued_at < now - CLAIM_MS)
        query = sa.select(letters).where(letters.c.published_at.is_(None), free)
        if ids:
            query = query.where(sa.cast(letters.c.id, sa.Text).in_(ids))
        query = query.order_by(letters.c.at, letters.c.id).limit(limit).with_for_update(skip_locked=True)
        claimed = []
        with writing(self._engine) as connection:
            for row in connection.execute(query).all():
                run = {"requeued_at": now, "requeued_by": actor, "requeued_as": row.requeued_as or new_id()}
                connection.execute(sa.update(letters).where(letters.c.id == row.id).values(run))
                details = {"task": row.task, "task_id": row.task_id, "as": run["requeued_as"]}
                self._trail.append(connection, actor, "dead_letter.requeue", row.id, details)
                claimed.append(DeadLetter(**(dict(row._mapping) | run)))
        return claimed

    def published(self, letter: DeadLetter) -> None:
        """The broker has taken a claimed letter's message."""
        with writing(self._engine) as connection:
            update = sa.update(letters).where(letters.c.id == letter.id)
            connection.execute(update.values(published_at=self._clock()))

    def list(self, *, waiting: bool = True, limit: int = 100) -> list[DeadLetter]:
        """Letters, the oldest first; ``waiting`` leaves out those that were run again."""
        query = sa.select(letters).order_by(letters.c.at, letters.c.id).limit(limit)
        if waiting:
            query = query.where(letters.c.published_at.is_(None))
        with reading(self._engine) as connection:
            return [DeadLetter(**row._mapping) for row in connection.execute(query)]
