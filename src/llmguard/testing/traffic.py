"""Random but repeatable moves, as callers make them and as faults distort them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from llmguard.core.moves import (
    NO_LIMIT,
    Admitted,
    Answer,
    Assert,
    Charge,
    Correct,
    Counted,
    Extend,
    Hold,
    Known,
    Load,
    Move,
    Part,
    Rate,
    Release,
    Renew,
    Reserve,
    Settle,
    Trip,
    Truth,
    Untrip,
    sub_window_end,
)
from llmguard.core.runs import BreakerTerms, Enter, Leave, Paid, Peek, RetryTerms, Tally, Verdict

HOUR = 3_600_000
YEAR_2100 = 4_102_444_800_000
"""Chosen times lie after any real one, so that no key of a test expires by itself."""

_KEYS = ("task:a", "task:b", "task:c")
_NAMES = ("name:x", "name:y")
_SOFT: tuple[Verdict, ...] = ("tripped", "done", "running", "paid", "lost", "tally", "breaker", "retry_budget")

_STEPS = (0, 0, 1, 7, 90, 900, 5_000, 20_000, 61_000, 16 * 60_000, 31 * 60_000, 3 * 24 * HOUR)
_STEP_WEIGHTS = (20, 20, 20, 20, 20, 20, 10, 10, 6, 3, 2, 1)


class Traffic:
    """Makes batches of moves over a handful of buckets, so that they meet; remembers what was admitted."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.now = YEAR_2100
        self._count = 0
        self._open: dict[str, Sequence[Hold]] = {}
        self._gated: list[Reserve] = []
        self._recent: list[str] = []
        self._admitted: dict[str, int] = {}
        self._seq = 0
        self._rules = 0
        self._runs: list[tuple[str, str]] = []

    def advance(self) -> int:
        """Let some time pass; the time then."""
        self.now += self._random.choices(_STEPS, _STEP_WEIGHTS)[0]
        return self.now

    def batch(self) -> list[Move]:
        """The next moves that go out as one."""
        return [self._move() for _ in range(self._random.choice((1, 1, 1, 2, 3, 8, 30)))]

    def learn(self, moves: list[Move], answers: list[Answer]) -> None:
        """Hear what became of a batch."""
        for move, answer in zip(moves, answers, strict=True):
            if isinstance(move, Reserve) and isinstance(answer, Admitted):
                self._open[move.rid] = move.holds
                self._admitted[move.rid] = answer.now
                self._seq = max(self._seq, answer.seq)
                if move.part is Part.GATE:
                    self._gated.append(move)

    def truth(self) -> Truth:
        """What a ledger might know: some sums, and some of the calls that were counted in them."""
        sums = {(c.name, c.window_end): c for c in self._charges("") + self._charges("") if not c.concurrency}
        rids = self._random.sample(self._recent, min(len(self._recent), 10))
        counted = [Counted(rid, self._random.randrange(0, 4), self._charges(rid)) for rid in rids]
        return Truth(list(sums.values()), counted)

    def _move(self) -> Move:
        calls = (self._reserve, self._second, self._settle, self._release, self._renew, self._extend, self._rare)
        tasks = (self._enter, self._leave, self._paid)
        if self._random.random() < 0.25:
            return self._random.choices(tasks, (5, 4, 1))[0]()
        return self._random.choices(calls, (12, 3, 9, 3, 2, 2, 1))[0]()

    def _rid(self) -> str:
        self._count += 1
        rid = f"018f0000-0000-7000-8000-{self._count:012x}"
        self._recent = [*self._recent[-60:], rid]
        return rid

    def _some_rid(self) -> str:
        """Mostly a live one, sometimes an ended one, rarely one nobody has heard of."""
        dice = self._random.random()
        if dice < 0.6 and self._open:
            return self._random.choice(list(self._open))
        return self._random.choice(self._recent) if dice < 0.95 and self._recent else self._rid()

    def _hold(self, name: str) -> Hold:
        r = self._random
        estimate = r.randrange(0, 120)
        limit = r.choice((900, 1_500))
        hold = Hold(name, limit, limit + r.choice((0, limit // 10)), estimate, r.randrange(0, 90), r.choice((0, 1, 3)))
        if name.startswith("hour"):
            hold.window_start = self.now - self.now % HOUR
            hold.window_end = hold.window_start + HOUR
            if r.random() < 0.02:
                hold.window_start, hold.window_end = hold.window_end, hold.window_end + HOUR
            hold.name = f"{name}|{hold.window_start}"
        elif name.startswith("rolling"):
            hold.rolling_ms = int(name.split("|")[1])
        elif name.startswith("shadow"):
            hold.limit = hold.ceiling = NO_LIMIT
        elif name.startswith("live"):
            hold.concurrency, hold.limit, hold.estimate = True, r.choice((3, 6)), 1
            hold.fixed = hold.per_output = 0
        if not hold.concurrency and r.random() < 0.5:
            hold.alerts = (hold.limit // 2, hold.limit * 4 // 5, hold.limit) if hold.limit < NO_LIMIT else (200,)
        return hold

    def _holds(self) -> tuple[Hold, ...]:
        names = ("hour|a", "hour|b", "total|c", "rolling|60000", "rolling|3600000", "shadow|d", "live|e", "live|f")
        return tuple([self._hold(name) for name in self._random.sample(names, self._random.randrange(0, 6))])

    def _rates(self) -> tuple[Rate, ...]:
        r = self._random
        rates = (
            Rate("requests|7/1000|a", 7, 1_000),
            Rate("requests|60/60000|b", 60, 60_000),
            Rate("tokens|1000/60000|c", 1_000, 60_000, r.choice((10, 400, 1_200)), True),
        )
        return tuple(r.sample(rates, r.choice((0, 0, 1, 2))))

    def _reserve(self) -> Move:
        r = self._random
        if self._open and r.random() < 0.05:
            rid, holds = r.choice(list(self._open.items()))
        else:
            rid, holds = (self._rid() if r.random() < 0.95 else self._some_rid()), self._holds()
        return Reserve(
            rid,
            r.choice(("p1", "p2")),
            r.choice((60_000, 5_000)),
            holds,
            self._rates(),
            self._trips(),
            self._tallies(),
            r.choices((Part.BOTH, Part.GATE, Part.MONEY), (6, 3, 1))[0],
            r.choice((0, 50, 400)),
            r.random() < 0.5,
            r.choice((0, 5, 20)),
            r.random() < 0.8,
            self._seq,
            self._version(),
        )

    def _version(self) -> int:
        """The rules' version: raised now and then; one caller in fifty has an old one."""
        dice = self._random.random()
        self._rules += dice < 0.005
        return self._rules - (dice > 0.98)

    def _second(self) -> Move:
        """The money part of a call whose gate was taken before."""
        if not self._gated:
            return self._reserve()
        move = self._gated.pop(self._random.randrange(len(self._gated)))
        for hold in move.holds:
            if hold.window_end and not hold.window_start <= self.now < hold.window_end:
                return Release(move.rid)
        move.part = Part.MONEY
        return move

    def _charges(self, rid: str) -> tuple[Charge, ...]:
        amount = self._random.randrange(0, 150)
        at = self._admitted.get(rid, self.now)
        return tuple(
            [
                Charge(
                    h.name,
                    amount,
                    sub_window_end(at, h.rolling_ms) if h.rolling_ms else h.window_end,
                    h.concurrency,
                    h.rolling_ms,
                )
                for h in self._open.get(rid) or self._holds()
            ]
        )

    def _corrections(self) -> tuple[Correct, ...]:
        if self._random.random() < 0.8:
            return ()
        return (Correct("tokens|1000/60000|c", 60_000, 1_000, self._random.randrange(-400, 400)),)

    def _settle(self) -> Move:
        rid = self._some_rid()
        at = self.now - self._random.choice((0, 1_000, 40 * 60_000))
        settle = Settle(rid, self._random.randrange(0, 4), at, self._charges(rid), self._corrections(), self._tallies())
        if self._random.random() < 0.8:
            self._open.pop(rid, None)
        return settle

    def _release(self) -> Move:
        rid = self._some_rid()
        self._open.pop(rid, None)
        return Release(rid, self._corrections(), self._tallies())

    def _renew(self) -> Move:
        rids = tuple({self._some_rid() for _ in range(self._random.randrange(0, 6))})
        runs = tuple({self._some_run() for _ in range(self._random.choice((0, 0, 1, 4)))})
        return Renew(self._random.choice(("p1", "p2")), 60_000, tuple(sorted(rids)), tuple(sorted(runs)))

    def _extend(self) -> Move:
        rid = self._some_rid()
        holds = self._open.get(rid) or self._holds()
        grown = [
            Hold(
                h.name,
                h.limit,
                h.ceiling,
                h.estimate if h.concurrency else h.estimate + self._random.randrange(-20, 200),
                h.fixed + self._random.randrange(0, 300),
                0,
                h.window_start,
                h.window_end,
                h.concurrency,
                h.rolling_ms,
                h.alerts,
            )
            for h in holds
        ]
        for hold in grown:
            hold.estimate = max(0, hold.estimate)
        return Extend(rid, 60_000, tuple(grown))

    def _rare(self) -> Move:
        r = self._random
        dice = r.randrange(6)
        if dice == 0:
            return Trip(r.choice(("t1", "task:a")), r.choice((0, self.now - 1, self.now + 5_000)))
        if dice == 1:
            return Untrip(r.choice(("t1", *_KEYS, *_NAMES)))
        if dice == 5:
            return Peek(tuple(r.sample(("t1", *_KEYS, *_NAMES), 3)))
        if dice == 2:
            return Known(tuple(sorted({self._some_rid() for _ in range(5)})))
        if dice == 3:
            rid = self._some_rid()
            return Assert(rid, "p1", 60_000, tuple(self._open.get(rid) or self._holds()), r.choice((0, 50)))
        sums = {c.name: c for c in self._charges("") if not c.concurrency}
        return Load(0, tuple(sums.values()))

    # ------------------------------------------------------------------ runs of tasks

    def _trips(self) -> tuple[str, ...]:
        return tuple(self._random.sample(("t1", "task:a"), self._random.choice((0, 0, 0, 1, 2))))

    def _tallies(self) -> tuple[Tally, ...]:
        """Few scopes and names, each with its own limit or none, so that some are reached."""
        r = self._random
        pairs = [(scope, name) for scope in ("t1", "task:a") for name in ("calls", "fp:8f3c")]
        return tuple(
            [
                Tally(scope, name, r.choice((0, 3, 12)), r.choice((1_000, 600_000)), r.choice((1, 1, 3)))
                for scope, name in r.sample(pairs, r.choice((0, 0, 1, 2)))
            ]
        )

    def _some_run(self) -> tuple[str, str]:
        """Mostly one that began not long ago, sometimes one that nobody knows."""
        if self._runs and self._random.random() < 0.9:
            return self._random.choice(self._runs)
        return self._random.choice(_KEYS), self._rid()

    def _enter(self) -> Move:
        r = self._random
        run = (r.choice(_KEYS), self._rid()) if r.random() < 0.95 else self._some_run()
        self._runs = [*self._runs[-20:], run]
        return Enter(
            *run,
            r.choice(_NAMES),
            r.choice((5_000, 60_000)),
            self._trips(),
            self._tallies(),
            r.choice((None, None, 2, 4)),
            r.choice((None, None, 0, 2)),
            r.choice((None, BreakerTerms(3, 500_000, r.choice((1_000, 90_000))))),
            r.choice((None, RetryTerms(200_000, r.choice((0, 2))))),
            r.random() < 0.4,
            tuple(r.sample(_SOFT, r.choice((0, 2, 6)))),
        )

    def _leave(self) -> Move:
        key, run_id = self._some_run()
        succeeded, paid, done = (self._random.random() < odds for odds in (0.4, 0.7, 0.1))
        return Leave(key, run_id, self._random.choice(_NAMES), succeeded, paid, done)

    def _paid(self) -> Move:
        return Paid(*self._some_run())
