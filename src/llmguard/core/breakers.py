"""What is known of all tasks of one name: a breaker for storms of failures, and the share of retries among its runs.

Both count in short slots of time. A sum takes the slot that is running and so many whole ones before it: never less
than the window, at most one slot more.
"""

from __future__ import annotations

from llmguard.core.rules import PPM
from llmguard.core.runs import BreakerTerms, RetryTerms

ENDING_SLOT_MS, ENDING_SLOTS = 60_000, 10
"""The breaker's window: ten minutes."""

ENTRY_SLOT_MS, ENTRY_SLOTS = 10_000, 6
"""The retry budget's window: a minute."""

KEEP_MS = ENDING_SLOT_MS * (ENDING_SLOTS + 1)
"""How long a name is remembered after its last run ended, its cooldown was over or its canary was given up."""


class Slots:
    """Pairs of counts by slot of time."""

    __slots__ = ("counts", "size", "span")

    def __init__(self, size: int, span: int) -> None:
        self.size = size
        self.span = span
        self.counts: dict[int, tuple[int, int]] = {}

    def add(self, first: int, second: int, now: int) -> None:
        """Count in the present slot, and forget those that have left the window."""
        slot = now // self.size
        a, b = self.counts.get(slot, (0, 0))
        self.counts = {k: v for k, v in self.counts.items() if slot - self.span <= k}
        self.counts[slot] = (a + first, b + second)

    def sums(self, now: int) -> tuple[int, int]:
        """The sums over the window."""
        oldest = now // self.size - self.span
        recent = [pair for slot, pair in self.counts.items() if slot >= oldest]
        return sum(a for a, _ in recent), sum(b for _, b in recent)


class Breaker:
    """One task name. ``open_until`` is 0 while the breaker is closed; after that time it is half-open, and ``canary``
    is the one run that may try, until ``canary_until``. ``endings`` are (ended, failed), ``entries`` (first runs,
    retries)."""

    __slots__ = ("canary", "canary_until", "cooldown_ms", "endings", "entries", "open_until", "until")

    def __init__(self) -> None:
        self.open_until = self.cooldown_ms = self.canary_until = self.until = 0
        self.canary = ""
        self.endings = Slots(ENDING_SLOT_MS, ENDING_SLOTS)
        self.entries = Slots(ENTRY_SLOT_MS, ENTRY_SLOTS)

    def blocks(self, now: int) -> bool:
        """Whether an open breaker, or a canary that is out, keeps a run from starting."""
        return self.open_until > now or (self.open_until > 0 and self.canary_until > now)

    def opens(self, terms: BreakerTerms, now: int) -> bool:
        """Open a closed breaker when its window is bad enough."""
        ended, failed = self.endings.sums(now)
        if self.open_until or failed < terms.failures or failed * PPM < terms.ratio_ppm * ended:
            return False
        self.cooldown_ms = terms.cooldown_ms
        self.open_until = now + terms.cooldown_ms
        return True

    def spares(self, terms: RetryTerms, now: int) -> bool:
        """Whether one more retry fits into its share."""
        first, retries = self.entries.sums(now)
        return (retries + 1) * PPM <= terms.ratio_ppm * first + terms.floor * PPM

    def enter(self, run_id: str, *, is_retry: bool, tries: bool, now: int) -> None:
        """A run begins; where it ``tries`` a half-open breaker it is the canary."""
        self.entries.add(int(not is_retry), int(is_retry), now)
        if tries and self.open_until and not self.blocks(now):
            self.canary, self.canary_until = run_id, now + self.cooldown_ms

    def leave(self, run_id: str, *, succeeded: bool, cost: bool, now: int) -> None:
        """A run has ended. A failure that cost nothing says nothing, not even of a canary."""
        if run_id == self.canary:
            self.canary, self.canary_until = "", 0
            if succeeded:
                self.open_until = 0
                self.endings.counts = {}
            elif cost:
                self.open_until = now + self.cooldown_ms
        if succeeded or cost:
            self.endings.add(1, int(not succeeded), now)

    def keep(self, now: int) -> None:
        """Remember the name from now on."""
        self.until = max(now, self.open_until, self.canary_until) + KEEP_MS
