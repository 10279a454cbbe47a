"""What the quota store must hear from the ledger, put into the store's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from llmguard.core.buckets import Bucket, budget_bucket
from llmguard.core.call import UNATTRIBUTED, ObjectRef
from llmguard.core.leases import HORIZON_MS
from llmguard.core.moves import NO_LIMIT, Charge, Counted, Release, Settle, Truth
from llmguard.core.records import BucketCharge, SettleRecord
from llmguard.core.rules import ANY, BudgetRule
from llmguard.core.runaway import KEEP_TRIPS_MS
from llmguard.core.runs import KEEP_RUNS_MS
from llmguard.core.windows import window_bounds
from llmguard.ledger import Ledger, Snapshot
from llmguard.ledger.configurations import Rules
from llmguard.ledger.refusals import Refusal
from llmguard.runtime.ids import now_ms

_MONTH_MS = 30 * 86_400_000
_LOOK_BACK_MS = 25 * 60_000
_NOTABLE_NANO = 50_000_000
"""Work that has cost less than $0.05 may be forgotten by a store that is loaded anew."""

_OF_WORK = tuple(
    BudgetRule(name, {name: ANY}, NO_LIMIT, "usd", "total", keep_ms=KEEP_TRIPS_MS) for name in ("task", "tree")
)
"""The buckets of budgets that tasks and their trees have (see :mod:`llmguard.stages.runaway`)."""


class LedgerBooks:
    """The ledger as the service uses it. Every method waits for the database and raises LedgerUnavailable.

    ``own_budget`` reads the budget that a key carries. ``in_force`` says where the rules come from and what they are,
    for the audit trail. Payloads are kept for ``keep_payloads_ms``.
    """

    def __init__(
        self,
        ledger: Ledger,
        spools: Path,
        budgets: Sequence[BudgetRule],
        own_budget: Callable[[str, str], BudgetRule],
        in_force: Callable[[], tuple[str, Rules]] | None = None,
        keep_payloads_ms: int = _MONTH_MS,
    ) -> None:
        self._ledger = ledger
        self._spools = spools
        self._budgets = budgets
        self._own_budget = own_budget
        self._in_force = in_force
        self._keep_payloads_ms = keep_payloads_ms
        self._adopted: list[Settle | Release] = []

    def prepare(self) -> list[Settle | Release]:
        """Make the schema ready, put changed rules on record before they are used, and :meth:`adopt` before sums are
        read."""
        self._ledger.make_ready()
        if self._in_force is not None:
            self._ledger.configurations.begin(*self._in_force())
        return self.adopt()

    def adopt(self) -> list[Settle | Release]:
        """Ship the spools of dead processes; what became of their calls, for a store that remembers their leases.

        What was found before an error is returned the next time.
        """
        self._ledger.adopt(self._spools, on_settled=self._settled, on_released=self._released)
        found, self._adopted = self._adopted, []
        return found

    def _settled(self, records: Sequence[SettleRecord]) -> None:
        self._adopted.extend(_settle(record) for record in records)

    def _released(self, rids: Sequence[str]) -> None:
        self._adopted.extend(Release(rid) for rid in rids)

    def truth(self) -> Truth:
        """Sums of all current windows and of all dear work of late, and the calls counted in them that the store might
        be told of again."""
        now = now_ms()
        with self._ledger.snapshot() as view:
            buckets = [pair for rule in self._rules() for pair in _sums(view, rule, now)]
            buckets += [pair for rule in _OF_WORK for pair in _work(view, rule, now)]
            sums = {bucket.name: Charge(bucket.name, amount, bucket.end) for bucket, amount in buckets}
            counted = [
                Counted(call.rid, call.rev, _charges(call.charges)) for call in view.settled_since(now - HORIZON_MS)
            ]
            untouched = view.empty()
        return Truth(list(sums.values()), counted, untouched)

    def windows(self) -> Truth:
        """Sums of all current windows."""
        sums = [Charge(bucket.name, amount, bucket.end) for bucket, amount in self.standing()]
        return Truth(sums, ())

    def standing(self) -> list[tuple[Bucket, int]]:
        """Every bucket of every budget in its current window, and what it has been charged."""
        now = now_ms()
        with self._ledger.snapshot() as view:
            return [pair for rule in self._rules() for pair in _sums(view, rule, now)]

    def _rules(self) -> list[BudgetRule]:
        """The configured budgets and those that keys carry; a key whose budget cannot be read is refused every call."""
        rules = list(self._budgets)
        for key in self._ledger.keys.list():
            if key.budget and not key.revoked_at:
                with suppress(ValueError):
                    rules.append(self._own_budget(key.id, key.budget))
        return rules

    def recent(self) -> list[Settle]:
        """Calls of the last 25 minutes that some rule counts, as they would be settled."""
        with self._ledger.snapshot() as view:
            return [
                Settle(call.rid, call.rev, call.at, _charges(call.charges))
                for call in view.settled_since(now_ms() - _LOOK_BACK_MS)
                if call.charges
            ]

    def owner(self, provider: str, ref: ObjectRef) -> str | None:
        """``org/team`` of an object at a provider."""
        owner = self._ledger.objects.owner(ref.kind, provider, ref.id)
        return None if owner is None else "/".join(owner)

    def forget_payloads(self) -> int:
        """Delete the payloads whose time is over; how many they were."""
        return self._ledger.payloads.forget(self._keep_payloads_ms)

    def count_refusals(self, counted: Mapping[Refusal, int]) -> None:
        """Write refusal counts."""
        self._ledger.count_refusals(counted)


def _sums(view: Snapshot, rule: BudgetRule, now: int) -> Iterator[tuple[Bucket, int]]:
    """What each bucket of a rule has been charged in its current window; a bucket without `*` also when nothing was."""
    start, end = window_bounds(rule.window, rule.timezone, now)
    fixed = {name: value for name, value in rule.scope.items() if value != ANY}
    free = [name for name, value in rule.scope.items() if value == ANY]
    sums = view.sums(rule.unit, start, end, where=fixed, by=free)
    if not free:
        sums.setdefault((), 0)
    for values, amount in sums.items():
        yield budget_bucket(rule, fixed | dict(zip(free, values, strict=True)), now), amount


def _work(view: Snapshot, rule: BudgetRule, now: int) -> Iterator[tuple[Bucket, int]]:
    """What each task, or each tree, of the last day has cost."""
    (dimension,) = rule.scope
    for (value,), amount in view.sums(rule.unit, now - KEEP_RUNS_MS, 0, by=[dimension], at_least=_NOTABLE_NANO).items():
        if value != UNATTRIBUTED:
            yield budget_bucket(rule, {dimension: value}, now), amount


def _settle(record: SettleRecord) -> Settle:
    entry = record.entry
    return Settle(entry.event_id, entry.rev, entry.created_at + entry.latency_ms, _charges(record.buckets))


def _charges(buckets: Iterable[BucketCharge]) -> tuple[Charge, ...]:
    return tuple(Charge(b.name, b.amount, b.window_end, b.unit == "calls") for b in buckets)
