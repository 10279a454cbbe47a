"""The runs of one task: how many began, which are live, which were lost, which cost money in vain.

A run whose owner lease ran out without a word is lost: its process was killed. Lost runs are counted when somebody
asks, never by a sweep, so a run that was only slow is no longer lost once it leaves or its lease is renewed.
"""

from __future__ import annotations

REMEMBERED = 16
"""Runs kept one by one; of more than that the oldest lost ones are kept as a number only."""

LEFT = 4
"""Ends of runs that are remembered, so that one told twice counts once."""


class Run:
    """One run: its lease ends at ``due``; ``paid`` when it has made a billed or ambiguous call."""

    __slots__ = ("due", "paid")

    def __init__(self, due: int, paid: bool = False) -> None:
        self.due = due
        self.paid = paid


class Runs:
    """All runs of one key, until ``until``. ``vain`` counts paid attempts that ended without success, ``forgotten``
    lost runs that are no longer kept one by one, ``left`` the last runs that ended."""

    __slots__ = ("done", "forgotten", "left", "runs", "started", "until", "vain")

    def __init__(self) -> None:
        self.started = self.vain = self.forgotten = self.until = 0
        self.done = False
        self.left: list[str] = []
        self.runs: dict[str, Run] = {}

    def paid(self, now: int) -> int:
        """Attempts that cost money and did not succeed; a lost run that had paid is one."""
        return self.vain + sum(run.paid and run.due <= now for run in self.runs.values())

    def lost(self, now: int) -> int:
        """Runs that began, did not end and are not live."""
        return self.forgotten + sum(run.due <= now for run in self.runs.values())

    def running(self, now: int) -> int:
        """Live runs."""
        return sum(run.due > now for run in self.runs.values())

    def enter(self, run_id: str, due: int, now: int) -> None:
        """A run begins."""
        self.done = False
        self.started += 1
        self.runs[run_id] = Run(due)
        if len(self.runs) > REMEMBERED:
            oldest = next((name for name, run in self.runs.items() if run.due <= now), None)
            if oldest is not None:
                self.vain += self.runs.pop(oldest).paid
                self.forgotten += 1

    def knows_end(self, run_id: str) -> bool:
        """Whether the run has ended, or the key needs it no more."""
        return run_id in self.left or (self.done and run_id not in self.runs)

    def renew(self, run_id: str, due: int, now: int) -> None:
        """Push the run's lease. One that is not known is entered: its owner says that it runs."""
        if run_id not in self.runs:
            self.enter(run_id, due, now)
        self.runs[run_id].due = due

    def pay(self, run_id: str, now: int) -> bool:
        """The run has cost money. False when that was known. One that is not known has no lease yet."""
        if run_id not in self.runs:
            self.enter(run_id, now, now)
        changed = not self.runs[run_id].paid
        self.runs[run_id].paid = True
        return changed

    def leave(self, run_id: str, *, succeeded: bool, paid: bool, done: bool) -> bool:
        """The run has ended. Returns whether it cost money. A success clears what went before it: an id that its caller
        uses again begins anew, while one that fails each time does not."""
        run = self.runs.pop(run_id, None)
        self.started += run is None
        cost = paid or (run is not None and run.paid)
        self.vain += cost and not succeeded
        self.left = [*self.left[1 - LEFT :], run_id]
        if done:
            self.done = True
            self.left, self.runs = [], {}
            if succeeded:
                self.vain = self.forgotten = 0
        return cost
