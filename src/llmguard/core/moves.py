"""Moves on the quota store and their answers: the vocabulary shared by stages, stores and tests.

Amounts are integers in the bucket's unit (nano-USD, tokens, or calls). Times are epoch milliseconds of the store's
clock. What a move does is written once, in :mod:`llmguard.core.limits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag


class Part(IntFlag):
    """Which part of a reservation a move takes: a cache look-up may sit between the two."""

    GATE = 1
    MONEY = 2
    BOTH = 3


@dataclass(slots=True, eq=False)
class Hold:
    """One bucket of a reservation.

    ``name`` says what is counted (dimensions, unit, window, window start), never which rule asks. ``limit`` is L and
    ``ceiling`` is L × (1 + overshoot). ``estimate`` is e; the cap is c = ``fixed`` + ``per_output`` × max_tokens, where
    ``per_output`` already contains the number of choices. ``window_end`` is 0 for `total`. A bucket with
    ``concurrency`` counts live leases: it is given back whole when the lease ends, however it ends.
    """

    name: str
    limit: int
    ceiling: int
    estimate: int
    fixed: int = 0
    per_output: int = 0
    window_start: int = 0
    window_end: int = 0
    concurrency: bool = False


@dataclass(slots=True, eq=False)
class Rate:
    """A limit over a short time, counted by GCRA: ``limit`` per ``period_ms``, this call costing ``cost``.

    ``settles`` marks a tokens-per-minute limit: ``cost`` is the estimate and is corrected at settle.
    """

    name: str
    limit: int
    period_ms: int
    cost: int = 1
    settles: bool = False


@dataclass(slots=True, eq=False)
class Reserve:
    """Take all buckets or none.

    ``max_output`` is the output the cap is computed with (the caller's ``max_tokens`` or the model's maximum);
    ``named`` says whether the caller named it. Where only the cap is too large and ``clamp`` is set, the store lowers
    it, never below ``floor``: to what fits for a named one, else to max(floor, 1/32 of what is left). ``seq`` is the
    highest sequence number this process has seen from the store (0: none), ``rules`` the version of the rules kept in
    SQL (0: none).
    """

    rid: str
    owner: str
    lease_ms: int
    holds: tuple[Hold, ...]
    rates: tuple[Rate, ...] = ()
    trips: tuple[str, ...] = ()
    part: Part = Part.BOTH
    max_output: int = 0
    named: bool = False
    floor: int = 0
    clamp: bool = True
    seq: int = 0
    rules: int = 0


@dataclass(slots=True, eq=False)
class Extend:
    """Raise a live lease to absolute amounts ``(bucket, e, c)``, re-checked against the same limits."""

    rid: str
    lease_ms: int
    holds: tuple[Hold, ...]


@dataclass(slots=True, eq=False)
class Renew:
    """Push the leases of one process in one move."""

    owner: str
    lease_ms: int
    rids: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Charge:
    """An actual amount for one bucket; carried by a settle so that it can be applied without its reservation."""

    name: str
    amount: int
    window_end: int = 0
    concurrency: bool = False


@dataclass(slots=True, eq=False)
class Correct:
    """The difference (actual - estimate) that a settling rate limit takes."""

    name: str
    period_ms: int
    limit: int
    difference: int


@dataclass(slots=True, eq=False)
class Settle:
    """The call ended and cost this much. ``rev`` is the usage source's revision; ``at`` the record's own time."""

    rid: str
    rev: int
    at: int
    charges: tuple[Charge, ...]
    corrections: tuple[Correct, ...] = ()


@dataclass(slots=True, eq=False)
class Release:
    """The call is known not to be billed: the hold comes out."""

    rid: str


@dataclass(slots=True, eq=False)
class Assert:
    """Enter a live lease under a new epoch, unchecked: the owner knows that it holds it."""

    rid: str
    owner: str
    lease_ms: int
    holds: tuple[Hold, ...]
    max_output: int


Move = Reserve | Extend | Renew | Settle | Release | Assert


@dataclass(slots=True, eq=False)
class Level:
    """What one bucket holds after a move, for headers and for the "50 such calls left" rule."""

    settled: int
    orphan: int
    held: int
    exposure: int


@dataclass(slots=True, eq=False)
class Admitted:
    """All buckets took the call.

    ``max_output`` is set where the cap was lowered or set. ``levels`` follow the order of ``holds``; ``rate_left`` the
    order of ``rates`` (whole requests left, milliseconds until full). ``now`` is the store's time, ``seq`` its sequence
    number, ``again`` marks the repeated answer to a repeated rid.
    """

    now: int
    seq: int
    max_output: int | None
    levels: tuple[Level, ...]
    rate_left: tuple[tuple[int, int], ...] = ()
    again: bool = False


@dataclass(slots=True, eq=False)
class Denied:
    """Nothing changed. ``why`` names the row of the refusals table, ``index`` the hold or rate that said no.

    ``why`` is one of `spent`, `insufficient`, `contended`, `too_large`, `rate`, `concurrency`, `tripped`.
    ``retry_ms`` is exact for rates, 0 where unknown.
    """

    now: int
    why: str
    index: int
    level: Level | None = None
    retry_ms: int = 0


@dataclass(slots=True, eq=False)
class Done:
    """A move other than a reserve was applied (``changed``) or had been before (DUP)."""

    now: int
    changed: bool
    levels: tuple[Level, ...] = ()


@dataclass(slots=True, eq=False)
class Again:
    """The store cannot take this move as it is.

    ``why`` is `cold` (no epoch: send again later), `stale` (the caller's rules are old), `window` (the bucket's window
    does not contain the store's time ``now``), `gone` (the rid is unknown or ended).
    """

    now: int
    why: str


Answer = Admitted | Denied | Done | Again
