"""What a guard does beside the calls, written once for event loops and for threads.

Each piece of work is a generator. It yields the reply of whatever may have to wait (the link to the store, the ledger)
and is sent it back: an event loop awaits it first, a thread got it at once. See :func:`finish` and :func:`afinish`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llmguard.core.exchange import Exchange
from llmguard.core.moves import Again, Assert, Done, Move, Renew, Trip
from llmguard.core.notes import DriftNote
from llmguard.core.runaway import Execution
from llmguard.core.runs import Peek, Seen
from llmguard.errors import GuardUnavailable, LLMGuardError
from llmguard.ledger import Ledger, Shipper, Spool
from llmguard.runtime.blocking import BlockingLink
from llmguard.runtime.books import LedgerBooks
from llmguard.runtime.ids import now_ms
from llmguard.runtime.keyring import Keyring
from llmguard.runtime.links import Link
from llmguard.runtime.notices import Notices
from llmguard.runtime.tally import Tally
from llmguard.stores.pieces import pieces

log = logging.getLogger("llmguard.service")

L = TypeVar("L", bound=Link | BlockingLink)
Work = Generator[Any, Any, None]
Wait = Callable[[Callable[[], Any]], Any]
"""Calls a function that waits for the database: here and now, or in another thread."""

LEASE_MS = 60_000
HEARTBEAT = 15.0
RUN_LEASE_MS = 10_000
RUN_HEARTBEAT = 3.0
KEYS = 0.5
COUNTS = 10.0
ADOPT = 30.0
RECONCILE = 60.0
FORGET = 600.0
RETRY = 1.0
_TELL_MS = 3_600_000
_TURN_MS = 180_000
"""How long one process reconciles for all: three passes, so that it sees what stays."""


@dataclass(slots=True)
class Health:
    """What stands between this process and readiness."""

    ledger: str | None = "starting"
    store: str | None = "starting"


@dataclass(slots=True)
class Parts:
    """What a guard's process works with."""

    books: LedgerBooks
    keyring: Keyring
    tally: Tally
    spool: Spool
    shipper: Shipper
    ledger: Ledger
    notices: Notices


class Upkeep(Generic[L]):
    """The work, and what it looks after: ``live`` are the running calls by their ids, ``runs`` the task bodies that run
    in this process; whoever runs one adds and discards it."""

    live: dict[str, Exchange]

    def __init__(self, owner: str, link: L, parts: Parts, wait: Wait) -> None:
        self.owner = owner
        self.link = link
        self.tally = parts.tally
        self.spool = parts.spool
        self.shipper = parts.shipper
        self.notices = parts.notices
        self.runs: set[Execution] = set()
        self.health = Health()
        self.drift = 0
        self._missing: frozenset[str] = frozenset()
        self._turn_ends = 0
        self._books = parts.books
        self._keyring = parts.keyring
        self._ledger = parts.ledger
        self._wait = wait
        self._troubles: dict[str, str] = {}

    def not_ready(self) -> list[str]:
        """Why calls cannot be taken now; empty when they can."""
        reasons = {"ledger": self.health.ledger, "quota store": self.health.store}
        return [f"{what}: {why}" for what, why in reasons.items() if why is not None]

    # ------------------------------------------------------------------ readiness

    def get_ready(self) -> Work:
        """Reach the ledger, then the store; load the store where it has forgotten."""
        self.link.repay()
        if self.health.ledger is not None:
            try:
                adopted = yield self._wait(self._books.prepare)
            except GuardUnavailable as error:
                self.health.ledger = str(error)
                return
            self.health.ledger = None
            self.tell(adopted)
        try:
            if (yield self.link.cold()):
                yield self.link.load(self._books.truth)
            elif self.health.store is not None:
                yield from self._begin_new_buckets()
            self.health.store = "being loaded from the ledger" if (yield self.link.cold()) else None
        except GuardUnavailable as error:
            self.health.store = str(error)

    def _begin_new_buckets(self) -> Work:
        """A rule that is new begins in mid-window: its buckets start from what the ledger has, not from nothing."""
        truth = yield self._wait(self._books.windows)
        for piece in pieces(truth, 0):
            yield self.link.ask(piece)

    # ------------------------------------------------------------------ rounds

    def renew(self) -> Work:
        """Push the leases of running calls; enter those again that a store without memory has lost."""
        rids = tuple(x.event_id for x in list(self.live.values()) if x.reserved)
        if not rids:
            return
        answer = yield self.link.ask(Renew(self.owner, LEASE_MS, rids))
        lost = answer.gone if isinstance(answer, Done) else rids if isinstance(answer, Again) else ()
        for rid in lost:
            x = self.live.get(rid)
            if x is not None and x.reserved:
                self.link.tell(_assertion(x, self.owner))

    def renew_runs(self) -> Work:
        """Push the leases of task bodies, and hear which of them were stopped from elsewhere."""
        runs = list(self.runs)
        if not runs:
            return
        yield self.link.ask(Renew(self.owner, RUN_LEASE_MS, (), tuple((run.key, run.run_id) for run in runs)))
        names = tuple({name for run in runs for name in run.trip_names})
        seen = yield self.link.ask(Peek(names))
        if isinstance(seen, Seen):
            stopped = {name for name, at in zip(names, seen.standings, strict=True) if at.until is not None}
            for run in runs:
                run.hear(stopped, seen.now)

    def refresh_keys(self) -> Work:
        """Hear of keys that changed."""
        if self.health.ledger is None and self._keyring.asked:
            yield self._wait(self._keyring.refresh)

    def write_counts(self) -> Work:
        """Write down the refusals that were counted; keep them where that fails."""
        counts = self.tally.take()
        if counts:
            try:
                yield self._wait(lambda: self._books.count_refusals(counts))
            except GuardUnavailable:
                self.tally.give_back(counts)
                raise

    def adopt(self) -> Work:
        """Ship the spools of dead processes."""
        self.tell((yield self._wait(self._books.adopt)))

    def forget(self) -> Work:
        """Delete what is kept of calls when its time is over."""
        if self.health.ledger is None:
            yield self._wait(self._books.forget_payloads)

    def reconcile(self) -> Work:
        """Settle again what the ledger has and the store does not know, by rid. One process does it at a time."""
        if not (yield from self._my_turn()):
            return
        settled = {move.rid: move for move in (yield self._wait(self._books.recent))}
        missing = (yield self.link.unknown(list(settled))) if settled else []
        self.tell(settled[rid] for rid in missing)
        self.drift = len(missing)
        if missing:
            log.warning("the quota store had not heard of %d settled calls; they were settled again", len(missing))
        again, self._missing = self._missing.intersection(missing), frozenset(missing)
        if again and (yield from self._first_to_tell("drift")):
            self.notices.note(DriftNote(len(again), now_ms()))

    def _my_turn(self) -> Generator[Any, Any, bool]:
        now = now_ms()
        if now >= self._turn_ends:
            answer = yield self.link.ask(Trip("turn:reconcile", now + _TURN_MS))
            if not isinstance(answer, Done) or not answer.changed:
                return False
            self._turn_ends = now + _TURN_MS
        return True

    def _first_to_tell(self, what: str) -> Generator[Any, Any, bool]:
        """Whether this process is the one that tells the operator, this hour, what several of them may find."""
        answer = yield self.link.ask(Trip(f"told:{what}", now_ms() + _TELL_MS))
        return isinstance(answer, Done) and answer.changed

    def tell(self, moves: Iterable[Move]) -> None:
        """Make moves that nobody waits for."""
        for move in moves:
            self.link.tell(move)

    # ------------------------------------------------------------------ what goes wrong, and the end

    def report(self, name: str, error: Exception | None) -> None:
        """How a piece of work went; what goes wrong is said once, and again when it has changed."""
        trouble = "" if error is None else str(error) if isinstance(error, LLMGuardError) else f"a defect: {error!r}"
        if error is not None and not isinstance(error, LLMGuardError):
            log.error("a defect in %s", name, exc_info=error)
        if trouble != self._troubles.get(name, ""):
            log.warning("%s: %s", name.lstrip("_").replace("_", " "), trouble or "well again")
        self._troubles[name] = trouble

    def say_what_is_left(self, shipped: bool) -> None:
        """At the end: what others will have to do for this process."""
        if self.link.owed:
            log.warning("the quota store did not take %d moves; it learns of them from the ledger", self.link.owed)
        if not shipped:
            log.warning(
                "the ledger did not take all records; they stay in %s and will be adopted", self.spool.directory
            )


def finish(work: Work) -> None:
    """Do a piece of work whose replies come at once."""
    try:
        reply = next(work)
        while True:
            reply = work.send(reply)
    except StopIteration:
        return


async def afinish(work: Work) -> None:
    """Do a piece of work, waiting where its replies have to be waited for."""
    try:
        reply = next(work)
        while True:
            try:
                if isinstance(reply, Awaitable):
                    reply = await reply
            except LLMGuardError as error:
                reply = work.throw(error)
            else:
                reply = work.send(reply)
    except StopIteration:
        return


def _assertion(x: Exchange, owner: str) -> Assert:
    assert x.plan is not None
    assert x.estimate is not None
    holds = tuple(x.estimate.hold(bucket) for bucket in x.plan.buckets)
    return Assert(x.event_id, owner, LEASE_MS, holds, x.estimate.max_output)
