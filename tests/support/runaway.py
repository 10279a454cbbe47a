"""Calls of tasks and of others through the stages, with a store in memory and no provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmguard.core.buckets import Planner
from llmguard.core.call import Call, Caller, ObjectRef
from llmguard.core.decision import Admit, Refuse, Target
from llmguard.core.effects import Ask, Count, Emit, Notice, Spool, Tell
from llmguard.core.exchange import Ending, Exchange, Pipeline, State
from llmguard.core.flow import drive
from llmguard.core.money import Price, Rates
from llmguard.core.moves import Begin, Move, Open, Turn
from llmguard.core.notes import Note
from llmguard.core.outage import Allowance
from llmguard.core.ports import Quote
from llmguard.core.records import Record
from llmguard.core.rules import BudgetRule, LimitRule
from llmguard.core.runaway import Execution, TaskPolicy
from llmguard.core.runs import Peek, Standing
from llmguard.core.usage import Usage
from llmguard.errors import StoreUnavailable
from llmguard.stages.attributed import Attributed
from llmguard.stages.meter import Meter
from llmguard.stages.quota import Quota, QuotaPolicy
from llmguard.stages.route import Route
from llmguard.stages.runaway import Runaway, RunawayPolicy
from llmguard.stores.memory import MemoryStore

NOW = 1_800_000_000_000
MICRO = 1_000
"""A token costs a millionth of a dollar: so many nano-USD."""


def execution(policy: TaskPolicy | None = None, task_id: str = "t1", tree_id: str = "root", **fields: Any) -> Execution:
    work = Execution(policy or TaskPolicy(), "app.summarise", task_id, f"task:{task_id}:0", f"run-{task_id}", tree_id)
    for name, value in fields.items():
        setattr(work, name, value)
    return work


def caller(work: Execution | None = None, **fields: Any) -> Caller:
    ids = {"task_id": work.task_id, "tree_id": work.tree_id} if work else {}
    return Caller(**{"team": "growth", "env": "prod", "feature": "summaries", "execution": work, **ids, **fields})


class _Reader:
    usage: Usage | None = None
    model = service_tier = finish_reason = None
    generated = 0
    finished = failed = False

    def __init__(self) -> None:
        self.created: list[ObjectRef] = []

    def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Nothing to read."""


class _Dialect:
    name = "openai_chat"

    def reader(self, call: Call, *, asked_usage: bool) -> _Reader:
        return _Reader()


class _Prices:
    def __init__(self, max_output: int) -> None:
        self.max_output = max_output

    def target(self, call: Call) -> Target | Refuse:
        return Target("openai", call.model)

    def quote(self, provider: str, model: str, tier: str | None = None) -> Quote:
        return Quote(Price(Rates(10**9, 10**9), "test"), self.max_output, 128_000)


class Calls:
    """Opens and ends calls under one clock. ``store_away`` makes the store silent."""

    def __init__(
        self,
        budgets: Sequence[BudgetRule] = (),
        limits: Sequence[LimitRule] = (),
        runaway: RunawayPolicy | None = None,
        max_output: int = 128_000,
        allowance: Allowance | None = None,
    ) -> None:
        self.now = NOW
        self.store_away = False
        self.store = MemoryStore(lambda: self.now)
        (turn,) = self.store.apply([Begin(60_000)])
        assert isinstance(turn, Turn)
        self.store.apply([Open(turn.fence, 0)])
        self.notes: list[Note] = []
        self.records: list[Record] = []
        self.asked: list[Move] = []
        self.owed: list[Move] = []
        self.allowance = allowance or Allowance()
        prices = _Prices(max_output)
        policy = QuotaPolicy("me", lambda key, text: budgets[0], self.allowance)
        self.stages = Pipeline(
            (
                Attributed(),
                Route(prices, prices, refuse_unknown=False),
                Runaway(runaway or RunawayPolicy(), self.allowance),
                Quota(Planner(budgets, limits), policy),
                Meter(prices),
            )
        )
        self._count = 0

    def open(self, who: Caller, body: bytes | None = None, **fields: Any) -> tuple[Exchange, Any]:
        """A call as far as its decision; each has another body unless one is given."""
        self._count += 1
        named: dict[str, Any] = {"prompt_bytes": 40, "max_tokens": 100} | fields
        text = b"prompt number %s" % chr(0x4E00 + self._count).encode() if body is None else body
        path = "/v1/chat/completions"
        call = Call("openai_chat", "openai", path, "POST", path, "", {}, text, "m", **named)
        x = Exchange(
            call,
            _Dialect(),  # type: ignore[arg-type]
            self.stages,
            event_id=f"01900000-0000-7000-8000-{self._count:012x}",
            secret=None,
            now=self.now,
        )
        x.caller = who
        return x, drive(x.open(self.now), self._handlers())

    def end(self, x: Exchange, tokens: int = 50, status: int = 200) -> None:
        """The provider answered with so many tokens in all, or with an error that it does not bill."""
        if x.state is State.ADMITTED:
            self.records.append(x.dispatch().record)
            x.answer(status, self.now)
            assert x.reader is not None
            x.reader.usage = Usage(0, tokens) if status < 400 else None
            x.whole("application/json", b"{}", self.now)
        self.close(x)

    def close(self, x: Exchange) -> None:
        """The call is over; if it was never sent, without cost."""
        drive(x.close(Ending.DONE, self.now), self._handlers())

    def call(self, who: Caller, body: bytes | None = None, tokens: int = 50, status: int = 200, **fields: Any) -> str:
        """A whole call: `ok` when it went to the provider, or the code that refused it."""
        x, decision = self.open(who, body, **fields)
        self.end(x, tokens, status)
        return "ok" if isinstance(decision, Admit) else str(decision.code)

    def standing(self, name: str) -> Standing:
        """What the store knows of a name."""
        return self.store.apply([Peek((name,))])[0].standings[0]  # type: ignore[union-attr]

    def told(self) -> list[tuple[str, str, int, int]]:
        """Notices as (kind, rule, limit, seen)."""
        return [(n.kind, n.rule, n.limit, n.seen) for n in self.notes]  # type: ignore[union-attr]

    def _handlers(self) -> dict[type[Any], Callable[[Any], Any]]:
        return {
            Ask: self._ask,
            Tell: self._tell,
            Spool: lambda effect: self.records.append(effect.record),
            Count: lambda effect: 10,
            Emit: lambda effect: None,
            Notice: lambda effect: self.notes.append(effect.note),
        }

    def _ask(self, effect: Ask) -> Any:
        self.asked.append(effect.move)
        if self.store_away:
            raise StoreUnavailable("the store is silent")
        return self.store.apply([effect.move])[0]

    def _tell(self, effect: Tell) -> None:
        if self.store_away:
            self.owed.append(effect.move)
        else:
            self.store.apply([effect.move])

    def comes_back(self) -> None:
        """The store answers again and hears what it is owed."""
        self.store_away = False
        self.store.apply(self.owed)
        self.owed = []
