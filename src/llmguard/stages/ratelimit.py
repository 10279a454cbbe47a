"""Rate headers of an admitted call: `RateLimit` and `RateLimit-Policy` (IETF draft-ietf-httpapi-ratelimit-headers-10),
`x-ratelimit-*` as the OpenAI SDKs read them, `anthropic-ratelimit-*` on that dialect."""

from __future__ import annotations

from llmguard.core.buckets import Plan
from llmguard.core.moves import Admitted

Headers = list[tuple[bytes, bytes]]
State = tuple[int, int, int]
"""Limit, what is left of it, seconds until it is whole again."""


def describe(headers: Headers, family: str, plan: Plan, answer: Admitted) -> None:
    """Append the headers for the tightest request rate and the tightest token limit of the call."""
    requests = tokens = None
    if plan.rates:
        states: list[int] = []
        for bucket, (left, full_ms) in zip(plan.rates, answer.rate_left, strict=True):
            seconds = -(-full_ms // 1000)
            states += (left, seconds)
            if bucket.unit == "tokens":
                if tokens is None or left < tokens[1]:
                    tokens = bucket.limit, left, seconds
            elif requests is None or left < requests[1]:
                requests = bucket.limit, left, seconds
        headers.append((b"ratelimit-policy", plan.policy))
        headers.append((b"ratelimit", plan.state % tuple(states)))
    if tokens is None and plan.counts_tokens:
        tokens = _token_budget(plan, answer)
    if requests is not None:
        _append(headers, family, b"requests", *requests)
    if tokens is not None:
        _append(headers, family, b"tokens", *tokens)


def _token_budget(plan: Plan, answer: Admitted) -> State | None:
    tightest: State | None = None
    for bucket, level in zip(plan.buckets, answer.levels, strict=True):
        if bucket.unit == "tokens":
            left = max(bucket.limit - level.settled - level.orphan - level.held, 0)
            if tightest is None or left < tightest[1]:
                tightest = bucket.limit, left, -(-(bucket.resets_at - answer.now) // 1000) if bucket.resets_at else 0
    return tightest


def _append(headers: Headers, family: str, unit: bytes, limit: int, left: int, seconds: int) -> None:
    headers.append((b"x-ratelimit-limit-" + unit, b"%d" % limit))
    headers.append((b"x-ratelimit-remaining-" + unit, b"%d" % left))
    headers.append((b"x-ratelimit-reset-" + unit, b"%ds" % seconds))
    if family == "anthropic":
        headers.append((b"anthropic-ratelimit-" + unit + b"-limit", b"%d" % limit))
        headers.append((b"anthropic-ratelimit-" + unit + b"-remaining", b"%d" % left))
