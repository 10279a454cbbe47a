"""What a call costs whose process died before it could say so."""

from __future__ import annotations

from llmguard.core.money import FEMTO_PER_NANO
from llmguard.core.records import BucketCharge, HoldRecord, PartialRecord, SentRecord, SettleRecord
from llmguard.core.usage import Source

PROCESS_LOST = "process_lost"


def settle_interrupted(hold: HoldRecord, sent: SentRecord, partial: PartialRecord | None) -> SettleRecord:
    """The record that closes a call which was sent and never ended.

    Without a PARTIAL it stands as its HOLD says. With one it is charged the input and the output seen so far
    (:class:`llmguard.core.records.HoldRecord` has the formula), at most what was held: the HOLD's cap, or the
    PARTIAL's own cost where the hold was raised since.
    """
    entry = hold.entry._replace(attempt_id=sent.attempt_id, interrupted=hold.entry.interrupted or PROCESS_LOST)
    if partial is None:
        return SettleRecord(entry, hold.buckets)
    priced = hold.fixed_nano + -(-partial.output_tokens * hold.output_femto // FEMTO_PER_NANO)
    cost = min(priced, max(entry.cap_nano, partial.cost_nano))
    cost_input = min(hold.fixed_nano, cost)
    entry = entry._replace(
        rev=int(Source.ESTIMATED),
        usage_source=Source.ESTIMATED.word,
        output_tokens=partial.output_tokens,
        cost_nano=cost,
        cost_input_nano=cost_input,
        cost_output_nano=cost - cost_input,
    )
    amounts = {"usd": cost, "tokens": entry.input_tokens + entry.output_tokens}
    return SettleRecord(entry, tuple(_charged(bucket, amounts) for bucket in hold.buckets))


def _charged(bucket: BucketCharge, amounts: dict[str, int]) -> BucketCharge:
    return bucket._replace(amount=amounts.get(bucket.unit, bucket.amount))
