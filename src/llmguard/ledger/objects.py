"""Whose are the objects that live at a provider under the shared key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from llmguard.core.records import SettleRecord
from llmguard.ledger.audit import SYSTEM, Trail
from llmguard.ledger.engine import reading, writing
from llmguard.ledger.models import objects
from llmguard.ledger.statements import upsert

Name = tuple[str, str, str]
"""Configured provider, object kind, id."""


class Owner(NamedTuple):
    """Who may read, continue, list and delete an object, and the call that made it."""

    org: str
    team: str
    created_at: int
    event_id: str | None


class Changes:
    """Creations and deletions of one transaction, the last word on each object winning."""

    def __init__(self) -> None:
        self._created: dict[Name, Owner] = {}
        self._deleted: dict[Name, tuple[str, str]] = {}

    def note(self, record: SettleRecord) -> None:
        """Take over what one call made and deleted."""
        entry = record.entry
        for kind, id_ in record.objects:
            name = (entry.provider, kind, id_)
            self._created[name] = Owner(entry.org, entry.team, entry.created_at, entry.event_id)
            self._deleted.pop(name, None)
        for kind, id_ in record.deleted:
            name = (entry.provider, kind, id_)
            self._created.pop(name, None)
            self._deleted[name] = (entry.org, entry.team)

    def save(self, connection: Connection) -> None:
        """Write them down. The first owner of an object stays its owner, and only its own team's deletion counts."""
        if self._created:
            create(connection, self._created.items())
        for (provider, kind, id_), (org, team) in self._deleted.items():
            connection.execute(
                sa.delete(objects).where(
                    objects.c.provider == provider,
                    objects.c.kind == kind,
                    objects.c.id == id_,
                    objects.c.org == org,
                    objects.c.team == team,
                )
            )


def create(connection: Connection, made: Iterable[tuple[Name, Owner]]) -> None:
    """Insert objects that are not known yet."""
    names = ("provider", "kind", "id", *Owner._fields)
    rows = [dict(zip(names, (*name, *owner), strict=True)) for name, owner in sorted(made)]
    connection.execute(upsert(connection, objects).on_conflict_do_nothing(), rows)


class Objects:
    """Look-ups in `llmguard_objects`."""

    def __init__(self, engine: Engine, trail: Trail) -> None:
        self._engine = engine
        self._trail = trail

    def owner(self, kind: str, provider: str, id_: str) -> tuple[str, str] | None:
        """``(org, team)`` of an object, None for one that nobody made through this guard.

        Rows arrive with their call's entry, so an object of the last moments may not be there yet.
        """
        with reading(self._engine) as connection:
            return _owner(connection, (provider, kind, id_))

    def add(self, kind: str, provider: str, id_: str, owner: Owner, *, actor: str = SYSTEM) -> None:
        """Note an object that was made outside a call, such as one that existed before the guard; ``actor`` is who asks
        for it, as the audit trail names them. An object that has an owner keeps it."""
        name = (provider, kind, id_)
        with writing(self._engine) as connection:
            if _owner(connection, name) is not None:
                return
            said = {"provider": provider, "kind": kind, "org": owner.org, "team": owner.team}
            self._trail.append(connection, actor, "object.claim", id_, said)
            create(connection, [(name, owner)])


def _owner(connection: Connection, name: Name) -> tuple[str, str] | None:
    provider, kind, id_ = name
    where = (objects.c.provider == provider, objects.c.kind == kind, objects.c.id == id_)
    row = connection.execute(sa.select(objects.c.org, objects.c.team).where(*where)).first()
    return None if row is None else (row.org, row.team)
