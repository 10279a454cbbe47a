"""Rate headers of an admitted call: `RateLimit` and `RateLimit-Policy` (IETF draft-ietf-httpapi-ratelimit-headers-10),
`x-ratelimit-*` as the OpenAI SDKs read them, `anthropic-ratelimit-*` on that dialect."""

from __future__ import annotations

from llmguard.core.buckets import Plan
from llmguard.core.moves import Admitted

Headers = list[tuple[bytes, bytes]]


def describe(headers: Headers, family: str, plan: Plan, answer: Admitted) -> None:
    """Append the headers for the tightest request rate and the tightest token limit of the call."""
    if plan.rates:
        _rates(headers, family, plan, answer)
    _token_budget(headers, family, plan, answer)


def _rates(headers: Headers, family: str, plan: Plan, answer: Admitted) -> None:
    tightest: dict[str, tuple[int, int, int]] = {}
    policies, states = [], []
    for bucket, (left, full_ms) in zip(plan.rates, answer.rate_left, strict=True):
        seconds = -(-full_ms // 1000)
        policies.append(f'"{bucket.rule}";q={bucket.limit};w={bucket.period_ms // 1000}')
        states.append(f'"{bucket.rule}";r={left};t={seconds}')
        if bucket.unit not in tightest or left < tightest[bucket.unit][1]:
            tightest[bucket.unit] = (bucket.limit, left, seconds)
    headers.append((b"ratelimit-policy", ", ".join(policies).encode()))
    headers.append((b"ratelimit", ", ".join(states).encode()))
    for unit, (limit, left, seconds) in tightest.items():
        _append(headers, family, unit, limit, left, seconds)


def _token_budget(headers: Headers, family: str, plan: Plan, answer: Admitted) -> None:
    if any(rate.unit == "tokens" for rate in plan.rates):
        return
    tightest: tuple[int, int, int] | None = None
    for bucket, level in zip(plan.buckets, answer.levels, strict=True):
        if bucket.unit == "tokens":
            left = max(bucket.limit - level.settled - level.orphan - level.held, 0)
            if tightest is None or left < tightest[1]:
                tightest = bucket.limit, left, -(-(bucket.end - answer.now) // 1000) if bucket.end else 0
    if tightest is not None:
        _append(headers, family, "tokens", *tightest)


def _append(headers: Headers, family: str, unit: str, limit: int, left: int, seconds: int) -> None:
    name = unit.encode()
    prefixes = (b"x-ratelimit-", b"anthropic-ratelimit-") if family == "anthropic" else (b"x-ratelimit-",)
    headers.append((prefixes[0] + b"limit-" + name, b"%d" % limit))
    headers.append((prefixes[0] + b"remaining-" + name, b"%d" % left))
    headers.append((prefixes[0] + b"reset-" + name, b"%ds" % seconds))
    if len(prefixes) > 1:
        headers.append((prefixes[1] + name + b"-limit", b"%d" % limit))
        headers.append((prefixes[1] + name + b"-remaining", b"%d" % left))
