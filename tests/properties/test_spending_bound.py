"""Whatever callers do and in whatever order, no budget is passed beyond its stated bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.core.leases import Lease, Status
from llmguard.core.limits import EXPOSED_MS
from llmguard.core.moves import Admitted, Charge, Done, Extend, Hold, Release, Renew, Reserve, Settle
from tests.support.book import LEASE, Store

LIMIT, CEILING = 1_000, 1_100
BUCKETS = ("team", "org")

amounts = st.integers(0, 400)
reserves = st.tuples(st.just("reserve"), amounts, amounts, st.integers(0, 5), st.booleans())
later = st.tuples(st.sampled_from(["settle", "release", "renew", "extend"]), st.integers(0, 30), st.floats(0, 1))
waits = st.tuples(st.just("wait"), st.sampled_from([1, 900, 20_000, LEASE, 10 * LEASE]))
histories = st.lists(reserves | later | waits, max_size=60)


def _holds(estimate: int, fixed: int, per_output: int) -> tuple[Hold, ...]:
    return tuple(Hold(name, LIMIT, CEILING, estimate, fixed, per_output) for name in BUCKETS)


@dataclass
class Open:
    """A running call: what it was allowed, and when it last showed life."""

    estimate: int
    cap: int
    seen: int


class Callers:
    """Callers who keep within what they were allowed, however late they say so.

    After a stall of more than 15 minutes only the estimate is still allowed for: a stated exception to the bound.
    """

    def __init__(self) -> None:
        self.store = Store()
        self._open: dict[str, Open] = {}
        self._count = 0

    def step(self, kind: str, *arguments: Any) -> None:
        if kind == "wait":
            self.store.pass_ms(arguments[0])
        elif kind == "reserve":
            self._reserve(*arguments)
        elif self._open:
            rid = sorted(self._open)[arguments[0] % len(self._open)]
            getattr(self, f"_{kind}")(rid, arguments[1])

    def _reserve(self, estimate: int, fixed: int, per_output: int, named: bool) -> None:
        self._count += 1
        rid = f"{self._count:04}"
        answer = self.store.apply(
            Reserve(rid, "p", LEASE, _holds(estimate, fixed, per_output), max_output=200, named=named, floor=20)
        )
        if isinstance(answer, Admitted):
            output = 200 if answer.max_output is None else answer.max_output
            self._open[rid] = Open(estimate, max(estimate, fixed + per_output * output), self.store.now)
            self._check_admission()

    def _settle(self, rid: str, part: float) -> None:
        call = self._open.pop(rid)
        stalled = self.store.now - call.seen >= LEASE + EXPOSED_MS
        actual = int((call.estimate if stalled else call.cap) * part)
        self.store.apply(Settle(rid, 3, self.store.now, tuple(Charge(name, actual) for name in BUCKETS)))

    def _release(self, rid: str, part: float) -> None:
        self._open.pop(rid)
        self.store.apply(Release(rid))

    def _renew(self, rid: str, part: float) -> None:
        if self.store.now - self._open[rid].seen < LEASE + EXPOSED_MS:
            self.store.apply(Renew("p", LEASE, (rid,)))
            self._open[rid].seen = self.store.now

    def _extend(self, rid: str, part: float) -> None:
        cap = self._open[rid].cap + int(200 * part)
        estimate = int(cap * part)
        answer = self.store.apply(Extend(rid, LEASE, _holds(estimate, cap, 0)))
        if isinstance(answer, Done):
            self._open[rid] = Open(estimate, cap, self.store.now)
            self._check_admission()

    def _check_admission(self) -> None:
        for name in BUCKETS:
            settled, orphan, held, exposure = self.store.level(name)
            assert settled + orphan + exposure <= CEILING
            assert held <= exposure

    def check(self) -> None:
        held = 0
        for record in self.store.book.records.values():
            if isinstance(record, Lease) and record.status is Status.HELD:
                held += record.taken[0].estimate
        for name in BUCKETS:
            settled, orphan, live, exposure = self.store.level(name)
            assert live == held
            assert min(settled, orphan, live, exposure) >= 0
            assert settled + orphan <= CEILING


@settings(max_examples=300, deadline=None)
@given(histories)
def test_spend_stays_within_the_overshoot(history: list[tuple[Any, ...]]) -> None:
    callers = Callers()
    for step in history:
        callers.step(*step)
        callers.check()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=40))
def test_nothing_is_held_once_every_call_has_ended(calls: list[tuple[int, bool]]) -> None:
    store = Store()
    for number, (estimate, billed) in enumerate(calls):
        rid = f"{number:04}"
        store.apply(Reserve(rid, "p", LEASE, _holds(estimate, estimate, 0)))
        charges = tuple(Charge(name, 1) for name in BUCKETS)
        store.apply(Settle(rid, 3, store.now, charges) if billed else Release(rid))
    for name in BUCKETS:
        assert store.level(name)[1:] == (0, 0, 0)
