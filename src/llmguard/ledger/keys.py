"""Virtual keys in the ledger: made, listed, rotated, revoked and looked up.

A key is shown once and kept as an HMAC. Every change is in the audit trail, and raises a version that processes poll,
so that each hears of a revocation within its polling interval.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from llmguard.core.call import DEFAULT_ORG, Principal
from llmguard.ledger.audit import SYSTEM, Trail
from llmguard.ledger.clock import Clock, now_ms
from llmguard.ledger.engine import reading, writing
from llmguard.ledger.keytext import digest, new_id, new_key, parse_key
from llmguard.ledger.models import keys, versions
from llmguard.ledger.statements import upsert

VERSION = "keys"
GRACE_MS = 24 * 60 * 60 * 1000

Unfit = Literal["unknown", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. Times are epoch milliseconds; ``previous_until`` ends a rotated secret's grace."""

    id: str
    org: str
    team: str
    env: str
    feature: str
    budget: str | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    previous_until: int | None

    def status(self, now: int) -> Literal["active", "expired", "revoked"]:
        """Whether the key is good at ``now``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class Verified(NamedTuple):
    """A good key: who calls, and until when (epoch ms, None: without end) this answer may be remembered at most."""

    principal: Principal
    until: int | None


class Changes(NamedTuple):
    """The ids of keys that changed after some version, and the version that they have led to."""

    version: int
    ids: frozenset[str]


_PUBLIC = [keys.c[name] for name in Key.__dataclass_fields__]


class Keys:
    """The keys of one ledger. ``clock`` returns epoch milliseconds. All methods raise LedgerUnavailable.

    ``actor`` is who asks for a change, as the audit trail names it.
    """

    def __init__(self, engine: Engine, pepper: bytes, trail: Trail, clock: Clock = now_ms) -> None:
        self._engine = engine
        self._pepper = pepper
        self._trail = trail
        self._clock = clock

    def create(
        self,
        team: str,
        env: str,
        feature: str,
        *,
        org: str = DEFAULT_ORG,
        expires_at: int | None = None,
        budget: str | None = None,
        actor: str = SYSTEM,
    ) -> tuple[Key, str]:
        """Make a key; the text is never to be had again. ``budget`` is text such as `$5/day`."""
        key = Key(new_id(), org, team, env, feature, budget, self._clock(), expires_at, None, None)
        text = new_key(env, key.id)
        public = {name: getattr(key, name) for name in Key.__dataclass_fields__}
        said = {name: public[name] for name in ("org", "team", "env", "feature", "budget", "expires_at")}
        with writing(self._engine) as connection:
            self._trail.append(connection, actor, "key.create", key.id, said)
            row = public | {"secret_hmac": digest(text, self._pepper), "changed": _raise_version(connection)}
            connection.execute(sa.insert(keys).values(row))
        return key, text

    def list(self) -> list[Key]:
        """All keys, revoked ones too, the newest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(*_PUBLIC).order_by(keys.c.created_at.desc(), keys.c.id)).all()
        return [Key(*row) for row in rows]

    def rotate(self, key_id: str, *, grace_ms: int = GRACE_MS, actor: str = SYSTEM) -> tuple[Key, str]:
        """Give a key a new secret; the present one stays good for ``grace_ms`` more, an older one does not.

        Raises KeyError for an id that does not exist or is revoked.
        """
        with writing(self._engine) as connection:
            row = self._locked(connection, key_id)
            if row is None or row.revoked_at is not None:
                raise KeyError(key_id)
            text, until = new_key(row.env, key_id), self._clock() + grace_ms
            self._trail.append(connection, actor, "key.rotate", key_id, {"previous_until": until})
            changes = {
                "secret_hmac": digest(text, self._pepper),
                "previous_hmac": row.secret_hmac,
                "previous_until": until,
            }
            return self._change(connection, key_id, changes), text

    def revoke(self, key_id: str, *, actor: str = SYSTEM) -> Key:
        """End a key now, both its secrets. Revoking again changes nothing. Raises KeyError for an unknown id."""
        with writing(self._engine) as connection:
            row = self._locked(connection, key_id)
            if row is None:
                raise KeyError(key_id)
            revoked_at = self._clock() if row.revoked_at is None else row.revoked_at
            self._trail.append(connection, actor, "key.revoke", key_id, {"revoked_at": revoked_at})
            return self._change(connection, key_id, {"revoked_at": revoked_at})

    def lookup(self, text: str) -> Verified | Unfit:
        """Who holds this key, or why it is no good. A key that was never made is `unknown` without a query."""
        parsed = parse_key(text)
        if parsed is None:
            return "unknown"
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(keys).where(keys.c.id == parsed.id)).first()
        return "unknown" if row is None else self._judge(row, digest(text, self._pepper))

    def _judge(self, row: Any, given: bytes) -> Verified | Unfit:
        now = self._clock()
        current = hmac.compare_digest(given, row.secret_hmac)
        previous = hmac.compare_digest(given, row.previous_hmac or b"")
        if not current and not previous:
            return "unknown"
        if row.revoked_at is not None:
            return "revoked"
        ends = [end for end in (row.expires_at, None if current else row.previous_until) if end is not None]
        until = min(ends, default=None)
        if until is not None and until <= now:
            return "expired"
        return Verified(Principal(row.id, row.id, row.team, row.env, row.feature, row.org, row.budget), until)

    def changes_since(self, version: int) -> Changes:
        """Which keys changed after ``version``; one look at a one-row table while nothing did. Start with version 0."""
        with reading(self._engine) as connection:
            current = connection.scalar(sa.select(versions.c.value).where(versions.c.name == VERSION)) or 0
            if current == version:
                return Changes(version, frozenset())
            ids = connection.scalars(sa.select(keys.c.id).where(keys.c.changed > version))
            return Changes(current, frozenset(ids))

    def _locked(self, connection: Connection, key_id: str) -> Any:
        return connection.execute(sa.select(keys).where(keys.c.id == key_id).with_for_update()).first()

    def _change(self, connection: Connection, key_id: str, changes: dict[str, Any]) -> Key:
        changes["changed"] = _raise_version(connection)
        connection.execute(sa.update(keys).where(keys.c.id == key_id).values(changes))
        return Key(*connection.execute(sa.select(*_PUBLIC).where(keys.c.id == key_id)).one())


def _raise_version(connection: Connection) -> int:
    """The next version. Its row stays locked until the commit, so that versions become visible in their order."""
    insert = upsert(connection, versions).values(name=VERSION, value=1)
    statement = insert.on_conflict_do_update(index_elements=["name"], set_={"value": versions.c.value + 1})
    return int(connection.execute(statement.returning(versions.c.value)).scalar_one())
