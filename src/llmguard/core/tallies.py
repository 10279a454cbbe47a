"""Named counters that expire: calls of a task, of a tree, and how often one prompt was sent.

The counters of one scope live in one record, which ends a fixed time after its first count. Counting past a limit is
refused before anything is counted, so that what was refused does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.core.runs import Tally


class Scope:
    """The counters of one scope, until ``until``."""

    __slots__ = ("counts", "until")

    def __init__(self, until: int) -> None:
        self.counts: dict[str, int] = {}
        self.until = until


Scopes = dict[str, Scope]


def count(scopes: Scopes, tally: Tally, now: int) -> int:
    """What stands there at ``now``."""
    scope = scopes.get(tally.scope)
    return scope.counts.get(tally.name, 0) if scope and now < scope.until else 0


def over(scopes: Scopes, tallies: Sequence[Tally], now: int) -> int | None:
    """The index of the first tally whose limit would be passed."""
    for index, tally in enumerate(tallies):
        if 0 < tally.limit < count(scopes, tally, now) + tally.add:
            return index
    return None


def add(scopes: Scopes, tallies: Sequence[Tally], now: int) -> None:
    """Count all of them."""
    for tally in tallies:
        scope = scopes.get(tally.scope)
        if scope is None or now >= scope.until:
            scope = scopes[tally.scope] = Scope(now + tally.keep_ms)
        scope.counts[tally.name] = scope.counts.get(tally.name, 0) + tally.add


def take_back(scopes: Scopes, tallies: Sequence[Tally], now: int) -> None:
    """Undo an :func:`add`, as far as its counters have not expired since."""
    for tally in tallies:
        scope = scopes.get(tally.scope)
        if scope and now < scope.until and tally.name in scope.counts:
            scope.counts[tally.name] = max(0, scope.counts[tally.name] - tally.add)


def counts(scopes: Scopes, tallies: Sequence[Tally], now: int) -> tuple[int, ...]:
    """What stands there for each."""
    return tuple([count(scopes, tally, now) for tally in tallies])
