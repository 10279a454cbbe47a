"""The ledger entry of a call, as far as it is known at each moment."""

from __future__ import annotations

import json
from functools import partial

from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import Cost
from llmguard.core.records import BucketCharge, Entry, HoldRecord, SettleRecord
from llmguard.core.usage import Source, Usage

_tuple = tuple.__new__
_charge = partial(_tuple, BucketCharge)


def hold_record(x: Exchange) -> HoldRecord:
    """What will be charged if nothing more is heard of this call: its estimate."""
    guess = x.estimate
    assert guess is not None
    usage = Usage(guess.input_tokens, guess.expected * guess.choices)
    total = x.estimate_nano
    fixed = min(guess.fixed_nano, total)
    entry = entry_of(x, usage, Cost(total, fixed, total - fixed), Source.HOLD, "process_lost")
    per_token = guess.output_femto // guess.choices if guess.choices else 0
    return HoldRecord(entry, charges(x, total, usage), fixed, per_token)


def settle_record(x: Exchange, usage: Usage, cost: Cost, source: Source, ending: Ending) -> SettleRecord:
    """How the call ended."""
    interrupted = None if ending is Ending.DONE else ending.value
    entry = entry_of(x, usage, cost, source, interrupted)
    created = tuple([(ref.kind, ref.id) for ref in x.created]) if x.created else ()
    deleted = x.call.deletes
    gone = ((deleted.kind, deleted.id),) if deleted is not None and x.status < 300 else ()
    return SettleRecord(entry, charges(x, cost.total, usage), created, gone)


def charges(x: Exchange, cost: int, usage: Usage) -> tuple[BucketCharge, ...]:
    """The same amounts for each bucket that the store is told."""
    plan = x.plan
    if plan is None:
        return ()
    amounts = {"usd": cost, "tokens": usage.input_tokens + usage.output_tokens, "calls": 0}
    charged = zip(plan.names, plan.units, map(amounts.__getitem__, plan.units), plan.ends, strict=True)
    return tuple(map(_charge, charged))


def entry_of(x: Exchange, usage: Usage, cost: Cost, source: Source, interrupted: str | None) -> Entry:
    """One row. Times not yet known are zero.

    Written by position, in the order of :class:`Entry`, and past its constructor: two are made for every call.
    """
    call, who, reader = x.call, x.who, x.reader
    assert x.quote is not None
    first = x.first_byte_at
    served, finish = (reader.model, reader.finish_reason) if reader is not None else (None, None)
    fields = (
        x.event_id,
        x.attempt_id,
        "POST",
        source,
        x.admitted_at,
        who.org,
        who.team,
        who.env,
        who.feature,
        who.end_user,
        who.principal,
        who.key_id,
        who.task_id,
        who.tree_id,
        who.trace_id,
        x.target.provider,
        call.model,
        served or x.target.model,
        call.dialect,
        call.endpoint,
        call.stream,
        x.status,
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        cost.total,
        cost.input,
        cost.output,
        x.saved_nano,
        x.estimate_nano,
        x.cap_nano,
        source.word,
        x.quote.price.version,
        x.cache,
        finish,
        x.now - x.opened_at,
        None if first is None else first - x.opened_at,
        len(call.body),
        x.bytes_out,
        interrupted,
        json.dumps(call.metadata, ensure_ascii=False, sort_keys=True) if call.metadata else None,
        x.target.model,
    )
    return _tuple(Entry, fields)
