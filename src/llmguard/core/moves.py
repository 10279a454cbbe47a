"""Moves on the quota store and their answers: the vocabulary shared by stages, stores and tests.

Amounts are integers in the bucket's unit (nano-USD, tokens, or calls). Times are epoch milliseconds of the store's
clock. What a move does is written once, in :mod:`llmguard.core.limits`. Moves are sent in batches; a batch is atomic
and has one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import NamedTuple

from msgspec import Struct

from llmguard.core.runs import Enter, Entered, Leave, Paid, Peek, Seen, Tally

NO_LIMIT = 2**62
"""``limit`` and ``ceiling`` of a bucket that only counts (a rule in shadow mode)."""

ROLLING_PARTS = 60
"""A rolling window is the sum of this many whole sub-buckets and the one that is running."""


def sub_window_end(at: int, rolling_ms: int) -> int:
    """End of the sub-bucket that a rolling window counts ``at`` in: the ``window_end`` of its charge."""
    step = rolling_ms // ROLLING_PARTS
    return (at // step + 1) * step


class Part(IntFlag):
    """Which part of a reservation a move takes: a cache look-up may sit between the two."""

    GATE = 1
    MONEY = 2
    BOTH = 3


class Hold(Struct, eq=False):
    """One bucket of a reservation. A name occurs once in a move: rules that share a bucket are merged before.

    ``name`` says what is counted (dimensions, unit, window, window start), never which rule asks; it has no spaces.
    ``limit`` is L and ``ceiling`` is L × (1 + overshoot). ``estimate`` is e; the cap is c = ``fixed`` + ``per_output``
    × max_tokens, where ``per_output`` already contains the number of choices. ``window_end`` is 0 for `total`. A bucket
    with ``concurrency`` counts live leases (``estimate`` of them, against ``limit`` only): it is given back whole when
    the lease ends, however it ends. ``rolling_ms`` > 0 makes it the window of the last so many milliseconds (a multiple
    of 60; ``window_start`` and ``window_end`` are 0). ``alerts`` are thresholds in the bucket's unit, ascending.
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
    rolling_ms: int = 0
    alerts: tuple[int, ...] = ()


class Rate(Struct, eq=False):
    """A limit over a short time, counted by GCRA: ``limit`` per ``period_ms``, this call costing ``cost``.

    The period belongs to the name, the limit does not. Exact while ``limit`` × ``period_ms`` is below 2^53.
    ``settles`` marks a tokens-per-minute limit: ``cost`` is the estimate and is corrected at settle.
    """

    name: str
    limit: int
    period_ms: int
    cost: int = 1
    settles: bool = False


class Reserve(Struct, eq=False):
    """Take all buckets or none.

    ``max_output`` is the output the cap is computed with (the caller's ``max_tokens`` or the model's maximum);
    ``named`` says whether the caller named it. Where only the cap is too large and ``clamp`` is set, the store lowers
    it, never below ``floor``: to what fits for a named one, else to max(floor, 1/32 of what is left). ``seq`` is the
    highest sequence number this process has seen from the store (0: none), ``rules`` the version of the rules kept in
    SQL (0: none).

    ``part`` GATE takes trips, rates, tallies and concurrency; MONEY the other holds. Both parts of a call carry the
    same rid, holds, rates, trips and tallies: a MONEY part that finds no gate (its answer was lost, its lease ran out)
    takes it along, and a MONEY part that is denied gives the rates, the tallies and the lease of its gate back.
    """

    rid: str
    owner: str
    lease_ms: int
    holds: Sequence[Hold]
    rates: tuple[Rate, ...] = ()
    trips: tuple[str, ...] = ()
    tallies: tuple[Tally, ...] = ()
    part: Part = Part.BOTH
    max_output: int = 0
    named: bool = False
    floor: int = 0
    clamp: bool = True
    seq: int = 0
    rules: int = 0


class Extend(Struct, eq=False):
    """Raise a live lease to absolute amounts, re-checked: ``estimate`` is the new e and ``fixed`` the new c.

    Buckets that are not named stay as they are. Denied changes nothing, not even the lease's end.
    """

    rid: str
    lease_ms: int
    holds: tuple[Hold, ...]


class Renew(Struct, eq=False):
    """Push the leases of one process in one move. :attr:`Done.gone` names those that ``owner`` does not hold.

    ``runs`` are the task bodies that run there, as pairs of key and run id. One that the store has forgotten is entered
    anew; one that has left, or whose key is done, stays away.
    """

    owner: str
    lease_ms: int
    rids: tuple[str, ...]
    runs: tuple[tuple[str, str], ...] = ()


class Charge(Struct, eq=False):
    """An actual amount for one bucket; carried by a settle so that it can be applied without its reservation.

    ``window_end`` is the bucket's own, for a rolling window :func:`sub_window_end` of the store's time of admission.
    ``concurrency`` says that the bucket counts leases: nothing is charged to it.
    """

    name: str
    amount: int
    window_end: int = 0
    concurrency: bool = False
    rolling_ms: int = 0


class Correct(Struct, eq=False):
    """The difference (actual - estimate) that a settling rate limit takes."""

    name: str
    period_ms: int
    limit: int
    difference: int


class Settle(Struct, eq=False):
    """The call ended and cost this much.

    ``rev`` is the usage source's revision. ``at`` is when the call ended, also in later revisions: an unknown rid is
    charged only while this is younger than the horizon. ``charges`` keep one order through all revisions of a rid.
    Under a rid of its own, with signed amounts, it is also how an operator raises or lowers a sum. ``tallies`` are
    given back: of a call that cost nothing, those that it was counted in.
    """

    rid: str
    rev: int
    at: int
    charges: Sequence[Charge]
    corrections: tuple[Correct, ...] = ()
    tallies: tuple[Tally, ...] = ()


class Release(Struct, eq=False):
    """The call is known not to be billed: the hold comes out. ``corrections`` give settling rates back, ``tallies``
    what they counted."""

    rid: str
    corrections: tuple[Correct, ...] = ()
    tallies: tuple[Tally, ...] = ()


class Assert(Struct, eq=False):
    """Enter a live lease under a new epoch, unchecked: the owner knows that it holds it."""

    rid: str
    owner: str
    lease_ms: int
    holds: tuple[Hold, ...]
    max_output: int


class Trip(Struct, eq=False):
    """Refuse every reserve that names ``name`` until ``until`` (0: for good). Changed only for the first to say so."""

    name: str
    until: int = 0


class Untrip(Struct, eq=False):
    """Lift a trip and forget what was counted under its name (tallies, runs, breaker): a fresh start."""

    name: str


class Known(Struct, eq=False):
    """Which of these rids does the store not know as settled? :attr:`Done.gone` names them."""

    rids: tuple[str, ...]


class Counted(Struct, eq=False):
    """A rid that is in the ledger's sums already, so that its settle is not charged again."""

    rid: str
    rev: int
    charges: tuple[Charge, ...]


class Truth(NamedTuple):
    """What the ledger supplies to a cold store: sums of current windows, and the rids counted in them that are younger
    than the horizon, both from one transaction.

    ``untouched`` says that the ledger has not a single entry: nothing was ever charged, so the store may open at once.
    """

    sums: Sequence[Charge]
    counted: Sequence[Counted]
    untouched: bool = False


class Begin(Struct, eq=False):
    """Ask for the turn to load a cold store, for ``lease_ms``. ``rebuild`` takes it from a warm one too: it goes cold.

    The answer is a :class:`Turn`. A turn wipes buckets and leases; trips, rates and the rules' version stay.
    """

    lease_ms: int
    rebuild: bool = False


class Load(Struct, eq=False):
    """Write the ledger's truth: absolute ``sums`` (one per bucket, of a rolling window one per sub-bucket).

    Under the current ``fence`` it fills a cold store, and may be sent in pieces and repeated. With ``fence`` 0 it goes
    to a warm one and only creates buckets that are missing: how a new rule starts in mid-window.
    """

    fence: int
    sums: tuple[Charge, ...]
    counted: tuple[Counted, ...] = ()


class Open(Struct, eq=False):
    """End a load: set the epoch. Reserves stay cold for ``grace_ms`` more, so that owners can assert their leases."""

    fence: int
    grace_ms: int


Move = (
    Reserve
    | Extend
    | Renew
    | Settle
    | Release
    | Assert
    | Trip
    | Untrip
    | Known
    | Begin
    | Load
    | Open
    | Enter
    | Leave
    | Paid
    | Peek
)


class Level(Struct, eq=False):
    """What one bucket holds, for headers and for the "50 such calls left" rule.

    In an answer that let the call pass it is what the whole batch left there; in a refusal what stood in the way.
    """

    settled: int
    orphan: int
    held: int
    exposure: int


class Admitted(Struct, eq=False):
    """All buckets took the call.

    ``max_output`` is set where the cap was lowered or set. ``levels`` has one for every hold, in order, also for those
    that the part did not take; ``rate_left`` the order of ``rates`` (whole requests left, milliseconds until full),
    ``tallied`` that of ``tallies`` (the counts after this call).
    ``now`` is the store's time, ``seq`` its sequence number, ``again`` marks the repeated answer to a repeated rid.
    ``crossed`` are thresholds that settled + orphan has reached: (index of the hold, threshold), once a window each.
    """

    now: int
    seq: int
    max_output: int | None
    levels: tuple[Level, ...]
    rate_left: tuple[tuple[int, int], ...] = ()
    again: bool = False
    crossed: tuple[tuple[int, int], ...] = ()
    tallied: tuple[int, ...] = ()


class Denied(Struct, eq=False):
    """Nothing changed. ``why`` names the row of the refusals table, ``index`` the hold, rate, trip or tally.

    ``why`` is one of `tripped`, `concurrency`, `rate`, `tally`, and for money and tokens, the most lasting first,
    `too_large` (would not fit the empty budget), `spent` (settled + orphan >= L), `insufficient`, `contended` (would
    fit but for live holds). ``level`` is the refusing hold's. ``retry_ms`` is exact for rates, 0 where unknown or
    useless.
    """

    now: int
    why: str
    index: int
    level: Level | None = None
    retry_ms: int = 0
    crossed: tuple[tuple[int, int], ...] = ()


class Done(Struct, eq=False):
    """A move other than a reserve was applied (``changed``) or had been before (DUP).

    ``levels`` follow the holds of an extend; ``gone`` answers :class:`Renew` and :class:`Known`.
    """

    now: int
    changed: bool
    levels: tuple[Level, ...] = ()
    gone: tuple[str, ...] = ()


class Again(Struct, eq=False):
    """The store cannot take this move as it is.

    ``why`` is `cold` (no epoch: send again later), `stale` (the caller's rules are old), `window` (the bucket's window
    does not contain the store's time ``now``), `gone` (the rid is unknown or ended, or the fence is an old one).
    """

    now: int
    why: str


class Turn(Struct, eq=False):
    """The fence to load with; 0 when the store is warm or another process is loading it."""

    now: int
    fence: int


Answer = Admitted | Denied | Done | Again | Turn | Entered | Seen
