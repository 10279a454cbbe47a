"""What a call holds and is charged in the buckets of its plan.

Both are sequences that make their members only when somebody looks at one. A store that has written down the plan's
buckets once (:attr:`~llmguard.core.buckets.Plan.kept`) needs nothing but the amounts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

from llmguard.core.buckets import Bucket, Plan
from llmguard.core.estimate import Estimate
from llmguard.core.moves import Charge, Hold

T = TypeVar("T")


class _OfPlan(Sequence[T]):
    """One member for each bucket of ``plan``, in their order."""

    __slots__ = ("_made", "plan")

    plan: Plan
    _made: tuple[T, ...] | None

    @abstractmethod
    def _make(self, bucket: Bucket) -> T:
        """The member for one bucket."""

    def _all(self) -> tuple[T, ...]:
        if self._made is None:
            self._made = tuple([self._make(bucket) for bucket in self.plan.buckets])
        return self._made

    def __len__(self) -> int:
        return len(self.plan.buckets)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._all()[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._all())


class Holds(_OfPlan[Hold]):
    """What a call holds by its ``guess``."""

    __slots__ = ("guess",)

    def __init__(self, plan: Plan, guess: Estimate) -> None:
        self.plan = plan
        self.guess = guess
        self._made = None

    def _make(self, bucket: Bucket) -> Hold:
        return self.guess.hold(bucket)

    def amounts(self) -> list[int]:
        """Estimate, fixed part and part per output token of each, one after another."""
        amounts: list[int] = []
        for unit in self.plan.units:
            amounts += self.guess.amounts(unit)
        return amounts


class Charges(_OfPlan[Charge]):
    """What a call is charged: nano-USD or tokens, nothing where live calls are counted."""

    __slots__ = ("_by_unit",)

    def __init__(self, plan: Plan, cost: int, tokens: int) -> None:
        self.plan = plan
        self._made = None
        self._by_unit = {"usd": cost, "tokens": tokens, "calls": 0}

    def _make(self, bucket: Bucket) -> Charge:
        return Charge(bucket.name, self._by_unit[bucket.unit], bucket.end, bucket.unit == "calls")

    def amounts(self) -> list[int]:
        """The amount of each."""
        return list(map(self._by_unit.__getitem__, self.plan.units))
