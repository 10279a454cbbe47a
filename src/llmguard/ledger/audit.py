"""The audit trail: a chain of records of what changed power or money, in which no tampering stays unseen.

Each record carries the hash of the one before it and its own, an HMAC-SHA256 under a key made of the ledger's pepper.
Whoever can write to the database but does not know the pepper can therefore neither alter a record nor add one. Removal
of the *last* records would leave a sound chain, so the last one's number and hash are kept a second time, under a seal
of their own. What this cannot show is a database put back as a whole to an earlier state: every append is logged with
its number and hash, and :meth:`Trail.verify` takes such a pair, noted elsewhere, as something that must be there.

A record is part of the caller's transaction: the change and its record are written together or not at all.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from llmguard.ledger.clock import Clock, now_ms
from llmguard.ledger.engine import reading, writing
from llmguard.ledger.models import audit, audit_head
from llmguard.ledger.statements import upsert

log = logging.getLogger("llmguard.audit")

MENDED = "audit.mended"
"""Action of a record that says, for good, that head and records did not fit together when the next one came."""

SYSTEM = "llmguard"
"""The actor of changes that no person asked for by name."""

PRUNED = "audit.pruned"
"""Action of the record that vouches for older ones, which were taken out after they had been put into an archive."""

_VERSION = 1
_PAGE = 1_000


class AuditRecord(NamedTuple):
    """One record. ``at`` is epoch milliseconds, ``details`` JSON text as it was hashed, hashes are hexadecimal."""

    seq: int
    at: int
    actor: str
    action: str
    subject: str
    details: str
    prev: str
    hash: str


class Position(NamedTuple):
    """A record's number and hash; (0, "") before the first one."""

    seq: int
    hash: str


class Flaw(NamedTuple):
    """Something wrong with the trail: the record concerned, and a sentence about it."""

    seq: int
    what: str


class Verdict(NamedTuple):
    """What a verification found: how many records there are, the last one, and what is wrong with them."""

    records: int
    last: Position
    flaws: list[Flaw]


class Trail:
    """The audit trail of one ledger. ``clock`` returns epoch milliseconds. All methods raise LedgerUnavailable."""

    def __init__(self, engine: Engine, pepper: bytes, clock: Clock = now_ms) -> None:
        self._engine = engine
        self._key = hmac.digest(pepper, b"llmguard audit trail", "sha256")
        self._clock = clock

    # ------------------------------------------------------------------ writing

    def append(
        self, connection: Connection, actor: str, action: str, subject: str, details: Mapping[str, Any] | None = None
    ) -> AuditRecord:
        """Add a record in the caller's transaction; until its end every other append waits.

        ``actor`` says who (`alice@host`, a process, a key's id), ``action`` what (`key.revoke`), ``subject`` to what.
        ``details`` are plain JSON values; secrets have no place in them.
        """
        return self._add(connection, self.lock(connection), actor, action, subject, details or {})

    def record(self, actor: str, action: str, subject: str, details: Mapping[str, Any] | None = None) -> AuditRecord:
        """Add a record in a transaction of its own: for an effect outside the database, which must come after it."""
        with writing(self._engine) as connection:
            return self.append(connection, actor, action, subject, details)

    def lock(self, connection: Connection) -> Position:
        """The last record, which stays the last one until this transaction has ended or appended to it.

        Where head and records do not fit together, a record says so first: appending must not cover that up.
        """
        insert = upsert(connection, audit_head).values(id=0, seq=0, hash="", seal=self._seal(Position(0, "")))
        lock = insert.on_conflict_do_update(index_elements=["id"], set_={"seq": audit_head.c.seq})
        row = connection.execute(lock.returning(audit_head.c.seq, audit_head.c.hash, audit_head.c.seal)).one()
        head, last = Position(row.seq, row.hash), _last(connection)
        if head == last and hmac.compare_digest(row.seal, self._seal(head)):
            return head
        details = {"head": head, "last": last}
        next_to = Position(max(head.seq, last.seq), last.hash)
        mended = self._add(connection, next_to, SYSTEM, MENDED, "trail", details)
        return Position(mended.seq, mended.hash)

    def _add(
        self, connection: Connection, last: Position, actor: str, action: str, subject: str, details: Mapping[str, Any]
    ) -> AuditRecord:
        text = json.dumps(details, sort_keys=True, separators=(",", ":"))
        who, what, whom = plain(actor), plain(action), plain(subject)
        draft = AuditRecord(last.seq + 1, self._clock(), who, what, whom, text, last.hash, "")
        record = draft._replace(hash=self._digest(draft))
        head = Position(record.seq, record.hash)
        connection.execute(sa.insert(audit).values(record._asdict()))
        connection.execute(sa.update(audit_head).values(head._asdict() | {"seal": self._seal(head)}))
        log.info("audit record %d, hash %s: %s %s by %s", *head, record.action, record.subject, record.actor)
        return record

    def _digest(self, record: AuditRecord) -> str:
        """The hash of a record: over a JSON list of everything in it, which has one spelling."""
        return self._hmac(["record", _VERSION, *record[:-1]])

    def _seal(self, head: Position) -> str:
        return self._hmac(["head", _VERSION, *head])

    def _hmac(self, parts: list[Any]) -> str:
        return hmac.digest(self._key, json.dumps(parts, separators=(",", ":")).encode(), "sha256").hex()

    # ------------------------------------------------------------------ reading

    def latest(self, connection: Connection, action: str, subject: str) -> AuditRecord | None:
        """The last record of this action on this subject."""
        query = sa.select(audit).where(audit.c.action == plain(action), audit.c.subject == plain(subject))
        row = connection.execute(query.order_by(audit.c.seq.desc()).limit(1)).one_or_none()
        return None if row is None else AuditRecord(*row)

    def tail(self, number: int) -> list[AuditRecord]:
        """The last records, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(audit).order_by(audit.c.seq.desc()).limit(number)).all()
        return [AuditRecord(*row) for row in reversed(rows)]

    def export(self, until_ms: int | None = None) -> Iterator[AuditRecord]:
        """All records, oldest first, as they were at one moment; with ``until_ms`` those before it."""
        with reading(self._engine) as connection, closing(_all(connection)) as records:
            for record in records:
                if until_ms is not None and record.at >= until_ms:
                    return
                yield record

    def prune(self, archive: Iterable[AuditRecord], actor: str) -> int:
        """Take out the oldest records, as far as ``archive`` has every one of them as it stands here; how many.

        A record of it becomes part of the chain and vouches for them. Never takes out the last record.
        """
        archived = {record.seq: record for record in archive}
        with writing(self._engine) as connection:
            head, through = self.lock(connection), None
            with closing(_all(connection)) as records:
                for record in records:
                    if record.seq == head.seq or archived.get(record.seq) != record:
                        break
                    through = Position(record.seq, record.hash)
            if through is None:
                return 0
            self.append(connection, actor, PRUNED, "trail", {"through": through})
            return connection.execute(sa.delete(audit).where(audit.c.seq <= through.seq)).rowcount

    def verify(self, expected: Position | None = None) -> Verdict:
        """Check every record, the chain between them, and their end.

        ``expected`` is a record's number and hash, noted outside the database, that must be there still.
        """
        with reading(self._engine) as connection:
            check = _Check(self._digest, expected)
            for record in _all(connection):
                check.next(record)
            head = connection.execute(sa.select(audit_head)).one_or_none()
        last = check.last
        kept = last if head is None else Position(head.seq, head.hash)
        if last.seq and (head is None or not hmac.compare_digest(head.seal, self._seal(kept))):
            check.note(last.seq, "the note of the last record was removed or changed: records may be missing after it")
        elif kept != last:
            check.missing(last.seq + 1, kept.seq, "at the end")
        return check.verdict()


class _Check:
    """Reads a trail in its order and gathers what is wrong with it."""

    def __init__(self, digest: Callable[[AuditRecord], str], expected: Position | None) -> None:
        self._digest = digest
        self._expected = expected
        self._records = 0
        self._altered: list[AuditRecord] = []
        self._flaws: list[Flaw] = []
        self._sound = True
        self._before = Position(0, "")
        self._pruned: set[Position] = set()
        self.last = Position(0, "")

    def note(self, seq: int, what: str) -> None:
        self._flaws.append(Flaw(seq, what))

    def missing(self, first: int, end: int, where: str) -> None:
        if first > end:
            self.note(self.last.seq, "the last record is not the one that was noted as such")
            return
        self.note(first, f"{_which(first, end)} missing {where}")

    def next(self, record: AuditRecord) -> None:
        if not self._records:
            self._before = self.last = Position(record.seq - 1, record.prev)
        self._records += 1
        follows = self._sound and record.seq == self.last.seq + 1
        if record.seq != self.last.seq + 1:
            self.missing(self.last.seq + 1, record.seq - 1, "from the chain")
        self._sound = hmac.compare_digest(self._digest(record), record.hash)
        if not self._sound:
            self._altered.append(record)
        elif follows and record.prev != self.last.hash:
            self.note(record.seq, "this record does not follow the one before it: one of them is of another trail")
        if record.action == PRUNED and self._sound:
            self._pruned.add(Position(*json.loads(record.details)["through"]))
        if record.action == MENDED:
            self.note(record.seq, f"this record notes that the trail had been changed before it: {record.details}")
        self.last = Position(record.seq, record.hash)
        if self._expected is not None and self._expected.seq == record.seq:
            if self._expected != self.last:
                self.note(record.seq, "this record is another one than was expected")
            self._expected = None

    def verdict(self) -> Verdict:
        if self._before.seq and self._before not in self._pruned:
            self._flaws.insert(0, Flaw(1, f"{_which(1, self._before.seq)} missing from the chain"))
        if self._expected is not None:
            self.note(self._expected.seq, "this record was expected and is missing")
        for record in self._altered:
            self.note(record.seq, self._alteration(record))
        return Verdict(self._records, self.last, sorted(self._flaws))

    def _alteration(self, record: AuditRecord) -> str:
        """Whether an altered record is the record of another place, or one that was never written."""
        for other in self._altered:
            if hmac.compare_digest(self._digest(record._replace(seq=other.seq)), record.hash):
                return f"this is record {other.seq}, moved to another place"
        return "this record was edited"


def _which(first: int, end: int) -> str:
    return "this record is" if first == end else f"records {first} to {end} are"


def _all(connection: Connection) -> Generator[AuditRecord, None, None]:
    """Every record, oldest first, page by page. Whoever does not read on to the end has to close it."""
    paged = {"yield_per": _PAGE}
    with connection.execute(sa.select(audit).order_by(audit.c.seq), execution_options=paged) as rows:
        for row in rows:
            yield AuditRecord(*row)


def _last(connection: Connection) -> Position:
    row = connection.execute(sa.select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).one_or_none()
    return Position(0, "") if row is None else Position(*row)


def plain(text: str) -> str:
    """Text that every database takes and gives back as it is: without NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
