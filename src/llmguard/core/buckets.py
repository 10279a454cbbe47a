"""From rules to the buckets of one call.

A bucket is named by what it counts (dimensions and values, unit, window kind, window start), never by the rule that
asks: two rules over the same thing share it, and a renamed rule or a changed limit restarts nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from llmguard.core.call import UNATTRIBUTED, Attribution
from llmguard.core.moves import NO_LIMIT, Level, Rate
from llmguard.core.outage import WhenStoreDown, strictest
from llmguard.core.rules import ANY, DIMENSIONS, BudgetRule, LimitRule
from llmguard.core.windows import window_bounds

Room = tuple[str, int, int]
"""Unit, the largest estimate and the largest cap of a call for which there is room many times."""

_CALLS_LEFT = 50
_CALLS_LEFT_STRICT = 1_000
_FOREVER = 1 << 62
_PLANS = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket that a call takes from. ``unit`` is `usd`, `tokens` or `calls` (live calls at once).

    ``alerts`` are the thresholds at which an operator is told, in that unit and ascending.
    """

    name: str
    unit: str
    limit: int
    ceiling: int
    start: int
    end: int
    rule: str
    window: str
    scope: Mapping[str, str]
    alerts: tuple[int, ...] = ()
    when_store_down: WhenStoreDown = "local"

    @property
    def resets_at(self) -> int:
        """When it is empty again (epoch ms), 0: never. The end of a `total` is only when it is forgotten."""
        return 0 if self.window == "total" else self.end


@dataclass(frozen=True, slots=True)
class RateBucket:
    """One rate limit that a call counts against. ``unit`` is `requests` or `tokens`."""

    name: str
    unit: str
    limit: int
    period_ms: int
    rule: str
    scope: Mapping[str, str]
    when_store_down: WhenStoreDown = "local"


class Plan:
    """Every bucket of a call with this attribution, until the first of their windows ends.

    ``policy`` is the value of the `RateLimit-Policy` header (IETF draft-ietf-httpapi-ratelimit-headers-10), ``state``
    that of `RateLimit` with two places for every rate: what is left, and the seconds until it is whole again.
    ``steady`` are the rates as every call counts against them, empty where some count tokens.
    ``room`` is what the store said at ``seen_at`` (epoch ms, 0: never) of the buckets of each unit, ``when_store_down``
    what holds for the call while nobody can ask it. ``kept`` is for the store: what it makes of the buckets once for
    all calls.
    """

    __slots__ = (
        "buckets",
        "budgets",
        "counts_tokens",
        "ends",
        "kept",
        "levels",
        "names",
        "paces_tokens",
        "policy",
        "rates",
        "room",
        "seen_at",
        "state",
        "steady",
        "units",
        "until",
        "when_store_down",
    )

    def __init__(self, buckets: tuple[Bucket, ...], rates: tuple[RateBucket, ...], until: int) -> None:
        self.buckets = buckets
        self.names = tuple([bucket.name for bucket in buckets])
        self.units = tuple([bucket.unit for bucket in buckets])
        self.ends = tuple([bucket.end for bucket in buckets])
        self.rates = rates
        self.until = until
        self.policy = ", ".join(f'"{r.rule}";q={r.limit};w={r.period_ms // 1000}' for r in rates).encode()
        self.state = ", ".join(f'"{r.rule.replace("%", "%%")}";r=%d;t=%d' for r in rates).encode()
        self.budgets = any(bucket.unit != "calls" for bucket in buckets)
        self.counts_tokens = any(bucket.unit == "tokens" for bucket in buckets)
        self.paces_tokens = any(rate.unit == "tokens" for rate in rates)
        self.steady = () if self.paces_tokens else tuple([Rate(r.name, r.limit, r.period_ms) for r in rates])
        self.seen_at = 0
        self.levels: tuple[Level, ...] = ()
        self.when_store_down = strictest([b.when_store_down for b in buckets] + [r.when_store_down for r in rates])
        self.room: tuple[Room, ...] = ()
        self.kept: dict[str, Any] = {}

    def see(self, levels: tuple[Level, ...], now: int) -> None:
        """Take note of what the store says that the buckets hold; calls of one batch hear it with one object."""
        if levels is not self.levels:
            rooms: dict[str, Room] = {}
            for bucket, level in zip(self.buckets, levels, strict=True):
                if bucket.unit != "calls":
                    one = room_in(bucket, level)
                    other = rooms.get(bucket.unit, one)
                    rooms[bucket.unit] = (bucket.unit, min(one[1], other[1]), min(one[2], other[2]))
            self.levels, self.room = levels, tuple(rooms.values())
        self.seen_at = now  # other threads look at this first


def room_in(bucket: Bucket, level: Level) -> Room:
    """The largest calls of which a bucket has room for many: fifty, or a thousand where no overshoot is allowed,
    because there what one call holds too much is refused to another."""
    calls = _CALLS_LEFT if bucket.ceiling > bucket.limit else _CALLS_LEFT_STRICT
    spent = level.settled + level.orphan
    most, most_cap = bucket.limit - spent - level.held, bucket.ceiling - spent - level.exposure
    return bucket.unit, most // calls, most_cap // calls


Values = tuple[str, ...]
"""One value per dimension of :data:`llmguard.core.rules.DIMENSIONS`."""


def values_of(who: Attribution, model: str, provider: str) -> Values:
    """The dimensions of a call; what is missing counts as `unattributed`, so that leaving it out frees nobody."""
    return (
        who.org,
        who.team,
        who.env,
        who.feature,
        who.key_id or UNATTRIBUTED,
        who.end_user or UNATTRIBUTED,
        model,
        provider,
        who.task_id or UNATTRIBUTED,
        who.tree_id or UNATTRIBUTED,
    )


Terms = Callable[[BudgetRule], BudgetRule | None]
"""What is made of a budget before it holds; None: it does not."""


def as_written(rule: BudgetRule) -> BudgetRule | None:
    """The terms of every day."""
    return rule


_OF_WORK = ("task", "tree")


class Planner:
    """Finds the buckets of a call, and remembers the answer for callers like it."""

    def __init__(self, budgets: Iterable[BudgetRule], limits: Iterable[LimitRule]) -> None:
        self._budgets = tuple(budgets)
        self._limits = tuple(limits)
        self._terms: Terms = as_written
        scopes = [rule.scope for rule in self._budgets] + [rule.scope for rule in self._limits]
        by_work = any(name in scope for scope in scopes for name in _OF_WORK)
        self._shared = len(DIMENSIONS) if by_work else len(DIMENSIONS) - len(_OF_WORK)
        self._plans: OrderedDict[tuple[Values, tuple[BudgetRule, ...]], Plan] = OrderedDict()

    def plan(self, values: Values, now: int, own: tuple[BudgetRule, ...] = ()) -> Plan:
        """The buckets for a call with these ``values`` at ``now``; ``own`` are budgets that its key, its task and its
        tree carry. Calls that differ in nothing that a rule names share a plan."""
        key = (values if own else values[: self._shared], own)
        plan = self._plans.get(key)
        if plan is None or not now < plan.until:
            plan = self._compile(values, now, own)
            self._plans[key] = plan
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def change(self, terms: Terms) -> None:
        """Have all budgets hold as ``terms`` makes them, those that callers carry included, from the next call on."""
        self._terms = terms
        self._plans = OrderedDict()

    def _compile(self, values: Values, now: int, own: tuple[BudgetRule, ...]) -> Plan:
        known = dict(zip(DIMENSIONS, values, strict=True))
        buckets: dict[str, Bucket] = {}
        for budget in filter(None, map(self._terms, (*self._budgets, *own))):
            scope = _match(budget.scope, known)
            if scope is not None:
                _keep_stricter(buckets, budget_bucket(budget, scope, now))
        rates: dict[str, RateBucket] = {}
        for limit in self._limits:
            scope = _match(limit.scope, known)
            if scope is None:
                continue
            if limit.kind == "concurrent":
                _keep_stricter(buckets, _parallel_bucket(limit, scope))
            else:
                rate = _rate_bucket(limit, scope)
                rates.setdefault(rate.name, rate)
        until = min((b.end for b in buckets.values() if b.end), default=_FOREVER)
        return Plan(tuple(buckets.values()), tuple(rates.values()), until)


def _match(scope: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str] | None:
    chosen = {}
    for dimension in DIMENSIONS:
        wanted = scope.get(dimension)
        if wanted is None:
            continue
        value = known[dimension]
        if wanted not in (ANY, value):
            return None
        chosen[dimension] = value
    return chosen


def _keep_stricter(buckets: dict[str, Bucket], new: Bucket) -> None:
    """Two rules over one bucket: the call must satisfy both, so the lower limit speaks."""
    old = buckets.get(new.name)
    if old is None:
        buckets[new.name] = new
        return
    tighter = new if (new.limit, new.ceiling) < (old.limit, old.ceiling) else old
    buckets[new.name] = replace(tighter, when_store_down=strictest([old.when_store_down, new.when_store_down]))


def scope_text(scope: Mapping[str, str]) -> str:
    """`team=search,env=prod` with values percent-encoded, so that no value can pose as another dimension."""
    return ",".join(f"{dimension}={quote(value, safe='-._~:/@')}" for dimension, value in scope.items())


def budget_bucket(rule: BudgetRule, scope: Mapping[str, str], now: int) -> Bucket:
    """The bucket of a rule for one value of each of its dimensions, in the window that contains ``now``."""
    scope = {dimension: scope[dimension] for dimension in DIMENSIONS if dimension in scope}
    start, end = window_bounds(rule.window, rule.timezone, now)
    name = f"{rule.unit}|{rule.window}|{start}|{scope_text(scope)}"
    if rule.keep_ms:
        end = now + rule.keep_ms
    limit, ceiling = (NO_LIMIT, NO_LIMIT) if rule.mode == "warn" else (rule.limit, rule.ceiling)
    down = rule.when_store_down
    return Bucket(name, rule.unit, limit, ceiling, start, end, rule.name, rule.window, scope, rule.alerts, down)


def _parallel_bucket(rule: LimitRule, scope: Mapping[str, str]) -> Bucket:
    name = f"calls|live|0|{scope_text(scope)}"
    down = rule.when_store_down
    return Bucket(name, "calls", rule.limit, rule.limit, 0, 0, rule.name, "live", scope, (), down)


def _rate_bucket(rule: LimitRule, scope: Mapping[str, str]) -> RateBucket:
    unit = "requests" if rule.kind == "rate" else "tokens"
    name = f"{unit}|{rule.limit}/{rule.period_ms}|{scope_text(scope)}"
    return RateBucket(name, unit, rule.limit, rule.period_ms, rule.name, scope, rule.when_store_down)
