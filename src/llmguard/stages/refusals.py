"""What a refused caller hears: one place for codes, statuses and the words that say what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmguard.core.buckets import Bucket, Plan, RateBucket
from llmguard.core.decision import Refuse
from llmguard.core.exchange import Exchange
from llmguard.core.money import usd_string
from llmguard.core.moves import Denied
from llmguard.core.notes import TripNote
from llmguard.core.outage import Why

FOR_MONEY = frozenset({"spent", "insufficient", "contended", "too_large"})
_REMEMBER_MS = 2_000
_MOST_TRIPS = 1_000
_Row = tuple[str, int, int | None, bool | None]
"""Code, status, Retry-After in seconds, x-should-retry."""
_RATE_LIMITED: _Row = ("rate_limited", 429, 1, None)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A bucket that was spent, and until when that is believed without asking the store."""

    bucket: Bucket
    denied: Denied
    until: int


class Memory:
    """What refused a call of this process a moment ago, so that a refused loop costs no store traffic: buckets that
    were spent, and trips."""

    def __init__(self) -> None:
        self._spent: dict[str, Remembered] = {}
        self._tripped: dict[str, tuple[Refuse, int]] = {}

    def note(self, bucket: Bucket, denied: Denied) -> None:
        """Remember a `spent` answer for two seconds, and never past the end of its window."""
        until = denied.now + _REMEMBER_MS
        self._spent[bucket.name] = Remembered(bucket, denied, min(until, bucket.end) if bucket.end else until)

    def note_trip(self, name: str, refusal: Refuse, now: int) -> None:
        """Remember what is said of a trip for two seconds."""
        if len(self._tripped) >= _MOST_TRIPS:
            self._tripped.clear()
        self._tripped[name] = refusal, now + _REMEMBER_MS

    def recall(self, x: Exchange, plan: Plan, now: int) -> Refuse | None:
        """What refused a call like this one."""
        if self._tripped and x.watch is not None:
            for name in x.watch.trips:
                refusal, until = self._tripped.get(name, (None, 0))
                if now < until:
                    return refusal
        remembered = self._recall_spent(plan, now) if self._spent else None
        return None if remembered is None else budget(remembered.bucket, remembered.denied, x.event_id)

    def _recall_spent(self, plan: Plan, now: int) -> Remembered | None:
        for bucket in plan.buckets:
            known = self._spent.get(bucket.name)
            if known is None:
                continue
            if now < known.until:
                known.denied.now = now
                return known
            self._spent.pop(bucket.name, None)  # another thread may have been faster
        return None


def budget(bucket: Bucket, denied: Denied, event_id: str) -> Refuse:
    """The refusal for a bucket of money, tokens or concurrent calls."""
    level = denied.level
    spent = level.settled + level.orphan if level else 0
    held = level.held if level else 0
    to_reset = max(-(-(bucket.resets_at - denied.now) // 1000), 1) if bucket.resets_at else None
    if bucket.unit == "calls":
        code, status, retry, again = _RATE_LIMITED
        words = f"{held} of {bucket.limit} calls are running at once; wait for one to end"
    else:
        code, status, retry, again = _row(denied.why, to_reset, event_id)
        words = _words(code, bucket, spent, held)
    return Refuse(
        code,
        status,
        f"{words} (rule {bucket.rule!r}, {_scope(bucket.scope)})",
        retry_after=retry,
        should_retry=again,
        rule=bucket.rule,
        scope=bucket.scope,
        unit="requests" if bucket.unit == "calls" else bucket.unit,
        limit=bucket.limit,
        spent=spent,
        held=held,
        reset_at=bucket.resets_at or None,
    )


def _row(why: str, to_reset: int | None, event_id: str) -> _Row:
    if why == "contended":
        jitter = 1 + int(event_id[-4:], 16) % 5
        return "budget_contended", 429, jitter, None
    if why == "too_large":
        return "request_exceeds_budget", 403, None, False
    return ("budget_exceeded" if why == "spent" else "budget_insufficient"), 429, to_reset, False


def _words(code: str, bucket: Bucket, spent: int, held: int) -> str:
    limit, used, live = (_amount(n, bucket.unit) for n in (bucket.limit, spent, held))
    of = f"{used} of {limit}" + ("" if bucket.window == "total" else f" this {bucket.window}")
    return {
        "budget_exceeded": f"the budget is spent: {of}",
        "budget_insufficient": f"this call does not fit into what is left: {of} is spent; "
        "a smaller max_tokens or prompt may fit",
        "budget_contended": f"calls that are running hold what is left: {of} is spent, {live} is held; try again soon",
        "request_exceeds_budget": f"this call alone may cost more than the whole budget of {limit}; "
        "lower max_tokens or shorten the prompt",
    }[code]


def rate(bucket: RateBucket, denied: Denied) -> Refuse:
    """The refusal for a request or token rate."""
    seconds = max(-(-denied.retry_ms // 1000), 1)
    return Refuse(
        "rate_limited",
        429,
        f"the limit of {bucket.limit} {bucket.unit} per {bucket.period_ms // 1000} s is reached; "
        f"try again in {seconds} s (rule {bucket.rule!r}, {_scope(bucket.scope)})",
        retry_after=seconds,
        rule=bucket.rule,
        scope=bucket.scope,
        unit=bucket.unit,
        limit=bucket.limit,
        spent=bucket.limit,
        held=0,
        reset_at=denied.now + denied.retry_ms,
    )


def runaway(note: TripNote) -> Refuse:
    """The refusal of what the runaway guard has stopped, or another process for it."""
    whom = {
        "task": f"task {note.task_id}",
        "tree": f"everything that {note.tree_id} started",
        "name": f"every task {note.task}",
        "feature": f"feature {note.feature!r}",
    }[note.scope]
    why = f"{note.rule} reached {_amount(note.limit, note.unit)}" if note.limit else "it was tripped before"
    scope = {"feature": note.feature, "task": note.task_id, "tree": note.tree_id}
    return Refuse(
        "runaway_tripped",
        403,
        f"the runaway guard has stopped {whom}: {why}; once it is mended, lift this with "
        f"`llmguard trips reset {note.name}`",
        should_retry=False,
        rule=note.rule,
        scope={name: value for name, value in scope.items() if value is not None},
        unit=note.unit if note.unit in ("usd", "tokens") else "requests",
        limit=note.limit,
        spent=note.seen,
        held=0,
    )


def key_budget(error: ValueError) -> Refuse:
    """The caller's key carries a budget that cannot be read, so nobody can say what it may spend."""
    return Refuse(
        "key_budget_invalid",
        403,
        f"the budget of this key cannot be read ({error}); whoever runs llmguard must give the key one that can, such "
        "as $5/day (llmguard keys create --budget)",
        should_retry=False,
    )


def store_away(why: Why | None = None) -> Refuse:
    """The quota store cannot be asked, and the policy is to deny, or what the process may do alone is used up."""
    alone = {
        "money": ", and this process has spent what it may on its own",
        "calls": ", and this process makes as many calls as it may on its own",
        "background": ", for so long that tasks have to wait",
    }
    return Refuse(
        "quota_unavailable",
        503,
        f"budgets cannot be checked now: the quota store does not answer{alone[why] if why else ''}; nothing was sent, "
        "try again in a moment",
        retry_after=5,
    )


def _amount(number: int, unit: str) -> str:
    return f"${usd_string(number)}" if unit == "usd" else f"{number} {unit}"


def _scope(scope: Mapping[str, str]) -> str:
    return ", ".join(f"{k} {v!r}" for k, v in scope.items()) or "everyone"
