"""What an operator must hear of: for each trip one log line, one count, one row with its audit record, and one alert.

Nobody who has something to say waits: rows are written and alerts sent by threads, which begin with the first of them.
Rows are kept while the ledger is away, alerts are repeated for some minutes; what finds a queue full is counted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any, assert_never

from llmguard.core.notes import BudgetNote, ContextNote, DriftNote, Note, PayloadNote, TripNote
from llmguard.errors import LedgerUnavailable
from llmguard.ledger import DeadLetter, Ledger, Payload, TripRow
from llmguard.runtime import wording
from llmguard.runtime.ids import uuid7
from llmguard.runtime.line import Line
from llmguard.sinks.webhook import Alert, AlertFailed, Webhook

log = logging.getLogger("llmguard.notices")

_PAUSES = (0.5, 1, 2, 5, 10, 20, 40, 80)
"""Seconds between the attempts to deliver an alert: nine of them in about three minutes."""
_LEDGER_PAUSE = 2.0
_REMEMBER = 10_000
_PAYLOADS = 200
"""Payloads that may wait to be written: some ten megabytes at most."""


class Notices:
    """Hears notes from any thread of one process, which ``owner`` names in the audit trail.

    ``events`` counts (`trip`, rule), (`warning`, rule), (`context`, why), (`alert`, `delivered` | `failed`), (`row`,
    `written` | `failed`) and (`payload`, `written` | `failed`).
    """

    def __init__(self, ledger: Ledger, receivers: Iterable[Webhook], owner: str) -> None:
        self._ledger = ledger
        self._actor = f"process {owner}"
        self._rows: Line[TripRow | DeadLetter | ContextNote] = Line("llmguard-notices", self._write)
        self._payloads: Line[PayloadNote] = Line("llmguard-payloads", self._keep_payload, _PAYLOADS)
        self._alerts = [
            (receiver, Line[Alert](f"llmguard-alerts-{receiver.host}", partial(self._deliver, index)))
            for index, receiver in enumerate(receivers)
        ]
        self._said: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._lock = threading.Lock()
        self.events: Counter[tuple[str, str]] = Counter()

    @property
    def dropped(self) -> int:
        """Rows, payloads and alerts that were given up because too many waited."""
        return self._rows.dropped + self._payloads.dropped + sum(line.dropped for _, line in self._alerts)

    # ------------------------------------------------------------------ what callers say

    def note(self, note: Note) -> None:
        """Tell the operator. Never waits, never raises.

        A warning is told once for each kind of work (task name, else feature) and rule, a context that was not believed
        once for each bearer and reason.
        """
        if isinstance(note, TripNote):
            if note.kind == "warned":
                self._warn(note)
            else:
                self._trip(note)
        elif isinstance(note, BudgetNote):
            self._say(logging.WARNING, wording.budget(note))
        elif isinstance(note, DriftNote):
            self._say(logging.ERROR, wording.drift(note))
        elif isinstance(note, ContextNote):
            self._disbelieve(note)
        elif isinstance(note, PayloadNote):
            self._payloads.put(note)
        else:
            assert_never(note)

    def keep(self, letter: DeadLetter) -> None:
        """Keep a stopped task's message in the ledger, as soon as that is there. Never waits."""
        self._rows.put(letter)

    def stop(self, seconds: float = 5.0) -> bool:
        """Write and send what waits, each once more at most; False when not all of it was done in time."""
        end = monotonic() + seconds
        lines: list[Line[Any]] = [self._rows, self._payloads, *(line for _, line in self._alerts)]
        for line in lines:
            line.stopping.set()
        ended = [line.stop(max(end - monotonic(), 0.0)) for line in lines]
        return all(ended)

    def _trip(self, note: TripNote) -> None:
        row = TripRow(
            uuid7(note.at),
            note.at,
            note.scope,
            note.name,
            note.rule,
            note.limit,
            note.seen,
            note.unit,
            note.org,
            note.team,
            note.env,
            note.feature,
            note.task,
            note.task_id,
            note.tree_id,
            note.cost_nano,
        )
        self._count("trip", note.rule)
        self._say(logging.ERROR, wording.trip(note, row.id))
        self._rows.put(row)

    def _warn(self, note: TripNote) -> None:
        self._count("warning", note.rule)
        if self._first(note.scope, note.task or f"{note.org}/{note.team}/{note.env}/{note.feature}", note.rule):
            log.warning("%s", wording.warning(note))

    def _disbelieve(self, note: ContextNote) -> None:
        if self._first(note.bearer, note.why):
            self._count("context", note.why)
            log.warning("%s", wording.context(note))
            self._rows.put(note)

    def _first(self, *key: str) -> bool:
        """Whether this is said for the first time."""
        with self._lock:
            if key in self._said:
                return False
            self._said[key] = None
            if len(self._said) > _REMEMBER:
                self._said.popitem(last=False)
            return True

    def _say(self, level: int, alert: Alert) -> None:
        log.log(level, "%s", alert.text)
        for receiver, line in self._alerts:
            if receiver.wants(alert.kind):
                line.put(alert)

    def _count(self, event: str, code: str) -> None:
        with self._lock:
            self.events[event, code] += 1

    # ------------------------------------------------------------------ in threads

    def _deliver(self, index: int, alert: Alert) -> None:
        receiver, line = self._alerts[index]
        for pause in (*_PAUSES, 0):
            last = not pause or line.stopping.is_set()
            try:
                receiver.post(alert)
            except AlertFailed as error:
                if last:
                    self._count("alert", "failed")
                    log.error("an alert was not delivered: %s; it said: %s", error, alert.text)
                    return
                line.stopping.wait(pause)
            else:
                self._count("alert", "delivered")
                return

    def _keep_payload(self, note: PayloadNote) -> None:
        """Once: a payload that the ledger does not take is not worth holding up others, or memory."""
        prompt, reply = (_capped(note.clean(text), note.max_bytes) for text in (note.prompt, note.reply))
        sizes = note.prompt_bytes, note.reply_bytes
        payload = Payload(note.event_id, note.at, note.org, note.team, prompt, reply, *sizes, note.redacted)
        try:
            self._ledger.payloads.add(payload)
        except LedgerUnavailable as error:
            self._count("payload", "failed")
            if self._first("payload", str(error)):
                log.error("the payload of call %s was not kept: %s", note.event_id, error)
        else:
            self._count("payload", "written")

    def _write(self, row: TripRow | DeadLetter | ContextNote) -> None:
        while True:
            last = self._rows.stopping.is_set()
            try:
                if isinstance(row, TripRow):
                    self._ledger.trips.add(row, self._actor)
                elif isinstance(row, DeadLetter):
                    self._ledger.dead_letters.add(row)
                else:
                    details = {"why": row.why, "org": row.org, "team": row.team}
                    self._ledger.audit.record(self._actor, "context.rejected", row.bearer, details)
            except LedgerUnavailable as error:
                if last:
                    which = row.bearer if isinstance(row, ContextNote) else row.id
                    log.error("the ledger did not take a row: %s; it was %s", error, which)
                    self._count("row", "failed")
                    return
                self._rows.stopping.wait(_LEDGER_PAUSE)
            else:
                self._count("row", "written")
                return


def _capped(text: str, most: int) -> str:
    """The beginning of a text, so many bytes at most."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
