"""The ledger entry of a call, as far as it is known at each moment."""

from __future__ import annotations

import json

from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import Cost
from llmguard.core.records import BucketCharge, Entry, HoldRecord, SettleRecord
from llmguard.core.usage import Source, Usage


def hold_record(x: Exchange) -> HoldRecord:
    """What will be charged if nothing more is heard of this call: its estimate."""
    guess = x.estimate
    assert guess is not None
    usage = Usage(guess.input_tokens, guess.expected * guess.choices)
    total = x.estimate_nano
    fixed = min(guess.nano(0), total)
    entry = entry_of(x, usage, Cost(total, fixed, total - fixed), Source.HOLD, "process_lost")
    per_token = guess.output_femto // guess.choices if guess.choices else 0
    return HoldRecord(entry, charges(x, total, usage), fixed, per_token)


def settle_record(x: Exchange, usage: Usage, cost: Cost, source: Source, ending: Ending) -> SettleRecord:
    """How the call ended."""
    interrupted = None if ending is Ending.DONE else ending.value
    entry = entry_of(x, usage, cost, source, interrupted)
    created = tuple([(ref.kind, ref.id) for ref in x.created])
    deleted = x.call.deletes
    gone = ((deleted.kind, deleted.id),) if deleted is not None and x.status < 300 else ()
    return SettleRecord(entry, charges(x, cost.total, usage), created, gone)


def charges(x: Exchange, cost: int, usage: Usage) -> tuple[BucketCharge, ...]:
    """The same amounts for each bucket that the store is told."""
    if x.plan is None:
        return ()
    amounts = {"usd": cost, "tokens": usage.input_tokens + usage.output_tokens, "calls": 0}
    return tuple([BucketCharge(b.name, b.unit, amounts[b.unit], b.end) for b in x.plan.buckets])


def entry_of(x: Exchange, usage: Usage, cost: Cost, source: Source, interrupted: str | None) -> Entry:
    """One row. Times not yet known are zero."""
    call, who, reader = x.call, x.who, x.reader
    assert x.quote is not None
    first = x.first_byte_at
    return Entry(
        event_id=x.event_id,
        attempt_id=x.attempt_id,
        kind="POST",
        rev=int(source),
        created_at=x.admitted_at,
        org=who.org,
        team=who.team,
        env=who.env,
        feature=who.feature,
        end_user=who.end_user,
        principal=who.principal,
        key_id=who.key_id,
        task_id=who.task_id,
        tree_id=who.tree_id,
        trace_id=who.trace_id,
        provider=x.target.provider,
        model_requested=call.model,
        model_served=(reader.model if reader is not None else None) or x.target.model,
        dialect=call.dialect,
        endpoint=call.endpoint,
        stream=call.stream,
        status=x.status,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nano=cost.total,
        cost_input_nano=cost.input,
        cost_output_nano=cost.output,
        saved_nano=0,
        estimate_nano=x.estimate_nano,
        cap_nano=x.cap_nano,
        usage_source=source.word,
        price_version=x.quote.price.version,
        cache=None,
        finish_reason=reader.finish_reason if reader is not None else None,
        latency_ms=x.now - x.opened_at,
        ttft_ms=None if first is None else first - x.opened_at,
        bytes_in=len(call.body),
        bytes_out=x.bytes_out,
        interrupted=interrupted,
        metadata=json.dumps(call.metadata, ensure_ascii=False, sort_keys=True) if call.metadata else None,
    )
