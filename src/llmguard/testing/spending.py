"""What code costs, read from the ledger: the same sums that `llmguard report` shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast

import sqlalchemy as sa

from llmguard.config import units
from llmguard.core.money import usd_string
from llmguard.guard import Guard, get_guard
from llmguard.ledger import Ledger
from llmguard.ledger.engine import reading
from llmguard.ledger.models import rollups

P = ParamSpec("P")
T = TypeVar("T")

WAIT_SECONDS: Final = 5.0
"""How long the calls inside may take to end, and their records to reach the ledger."""

_LOOK_SECONDS: Final = 0.01
_GROUP: Final = ("team", "env", "feature", "provider", "model")
_Sums = dict[tuple[Any, ...], tuple[int, int]]
"""Calls and nano-USD of each group."""


class Row(NamedTuple):
    """What one team, env and feature spent on one model. Money is integer nano-USD."""

    team: str
    env: str
    feature: str
    provider: str
    model: str
    calls: int
    cost_nano: int

    def in_words(self) -> str:
        """For people."""
        what = f"{self.team}/{self.feature} {self.provider}/{self.model}"
        return f"{what}: {_calls(self.calls)}, ${usd_string(self.cost_nano)}"


class Spent:
    """What was spent: nothing before the end of the block, and then what was recorded during it."""

    def __init__(self, rows: tuple[Row, ...] = ()) -> None:
        self.rows = rows

    @property
    def calls(self) -> int:
        """How many calls reached a provider. Refused ones did not; each retry is one more."""
        return sum(row.calls for row in self.rows)

    @property
    def cost_nano(self) -> int:
        """Their cost in nano-USD."""
        return sum(row.cost_nano for row in self.rows)

    @property
    def usd(self) -> str:
        """Their cost in dollars, as a decimal string: `0.0125`."""
        return usd_string(self.cost_nano)

    def of(self, **words: str) -> Spent:
        """The part of it that has these names: ``of(team="search", feature="chat")``; also `env`, `provider`, `model`.
        Raises ValueError for other words."""
        if unknown := words.keys() - set(_GROUP):
            raise ValueError(f"{', '.join(sorted(unknown))}: ask by {', '.join(_GROUP)}")
        return Spent(tuple(r for r in self.rows if all(getattr(r, name) == word for name, word in words.items())))

    def __repr__(self) -> str:
        return f"Spent({_calls(self.calls)}, ${self.usd})"

    def in_words(self) -> str:
        """Who spent it on what, for people."""
        return "; ".join(row.in_words() for row in self.rows) or "nothing"


class spend:
    """What the code inside spends: ``with spend() as spent:``, or ``async with``.

    ``spent`` is filled at the end of the block, with everything that the ledger of ``guard`` (the default one unless
    given) has recorded meanwhile, whoever called: other threads, and other processes that write to the same ledger.
    Raises AssertionError where a call is still open then.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard = guard
        self._spent = Spent()

    def __enter__(self) -> Spent:
        self._of = self._guard or get_guard()
        self._spent = Spent()
        self._ledger = self._of.ledger()
        self._ledger.make_ready()
        _settle(self._of)
        self._before = _sums(self._ledger)
        return self._spent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            still_open = _settle(self._of)
            after = _sums(self._ledger)
        finally:
            self._ledger.close()
        self._spent.rows = _difference(self._before, after)
        if error is None:
            self.check(self._spent, still_open)

    async def __aenter__(self) -> Spent:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def check(self, spent: Spent, still_open: int) -> None:
        """Raise AssertionError where the block did not do what it should."""
        if still_open:
            raise AssertionError(f"{_are(still_open)} still open: read each stream to its end, or close it")


class cost_at_most(spend):
    """The code inside costs no more than this, and makes exactly so many ``calls`` where that is said.

    With `with`, `async with`, or as a decorator of functions, also coroutine functions::

        @cost_at_most("$0.01", calls=1)
        def test_summary(): ...

    Raises AssertionError with one sentence otherwise, and ValueError for a cost that is not written as `$0.01`.
    """

    def __init__(self, cost: str, *, calls: int | None = None, guard: Guard | None = None) -> None:
        super().__init__(guard)
        self._most = units.money(cost)
        self._calls = calls

    def check(self, spent: Spent, still_open: int) -> None:
        """See :meth:`spend.check`."""
        super().check(spent, still_open)
        if spent.cost_nano > self._most:
            raise AssertionError(f"this cost ${spent.usd}, more than ${usd_string(self._most)} ({spent.in_words()})")
        if self._calls is not None and spent.calls != self._calls:
            raise AssertionError(f"this made {_calls(spent.calls)}, not {self._calls} ({spent.in_words()})")

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function: each of its runs may cost so much."""

        def fresh() -> cost_at_most:
            return cost_at_most(f"${usd_string(self._most)}", calls=self._calls, guard=self._guard)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with fresh():
                return function(*args, **kwargs)

        @wraps(function)
        async def arun(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with fresh():
                return await cast("Any", function(*args, **kwargs))

        return cast("Callable[P, T]", arun if iscoroutinefunction(function) else run)


def _settle(guard: Guard) -> int:
    """Wait until the guard's calls have ended and stand in the ledger; how many are still open."""
    until = time.monotonic() + WAIT_SECONDS
    services = list(guard.services)
    while (still_open := sum(len(service.live) for service in services)) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    for service in services:
        if not service.shipper.flush(max(until - time.monotonic(), _LOOK_SECONDS)):
            raise AssertionError(f"the ledger has not taken all records: {service.shipper.error or 'it is slow'}")
    return still_open


def _sums(ledger: Ledger) -> _Sums:
    columns = [rollups.c[name] for name in _GROUP]
    query = sa.select(*columns, sa.func.sum(rollups.c.calls), sa.func.sum(rollups.c.cost_nano)).group_by(*columns)
    with reading(ledger.engine) as connection:
        return {tuple(group): (int(calls), int(cost)) for *group, calls, cost in connection.execute(query)}


def _difference(before: _Sums, after: _Sums) -> tuple[Row, ...]:
    rows = []
    for group, (calls, cost) in sorted(after.items()):
        calls_before, cost_before = before.get(group, (0, 0))
        row = Row(*(*group, calls - calls_before, cost - cost_before))
        if row.calls or row.cost_nano:
            rows.append(row)
    return tuple(rows)


def _calls(number: int) -> str:
    return f"{number} call" if number == 1 else f"{number} calls"


def _are(number: int) -> str:
    return f"{_calls(number)} {'is' if number == 1 else 'are'}"
