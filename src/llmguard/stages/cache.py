"""Answers a call with what the same call was answered before.

A kept reply is looked for before any money is held, and a hit takes none; rates, concurrency and trips hold for hits,
too. Where nothing is kept, one caller fetches it and the others, in every process, wait for what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable

from llmguard.core.cache import CachePolicy, Kept, Tape, cacheable, digest, directives
from llmguard.core.decision import Refuse, Replay
from llmguard.core.effects import Emit, GiveUp, Keep, Seek, Spool, Steps
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import Cost
from llmguard.core.records import SettleRecord
from llmguard.core.usage import Source, Usage
from llmguard.errors import SpoolFull
from llmguard.stages.records import settle_record

Gate = Callable[[Exchange], Steps[Refuse | None]]

_HEADER = b"x-llmguard-cache"
_FREE = Cost(0, 0, 0)


class Cache:
    """``gate`` is what a hit must pass, which costs nothing: :meth:`llmguard.stages.quota.Quota.gate`."""

    passive = False

    def __init__(self, policy: CachePolicy, gate: Gate) -> None:
        self._policy = policy
        self._gate = gate

    def open(self, x: Exchange) -> Steps[Refuse | Replay | None]:
        """Replays a kept reply, or lets the call go on and has its reply recorded."""
        asked = directives(x.call.headers)
        if asked.no_store or not cacheable(x.call, self._policy):
            x.headers.append((_HEADER, b"bypass"))
            return None
        name = digest(x.call, x.who, x.target)
        owner = f"{x.who.org}/{x.who.team}"
        claimed = False
        if not asked.no_cache:
            found = yield Seek(name, owner, x.event_id)
            kept, claimed = found.kept, found.claimed
            if kept is not None and (asked.max_age_ms is None or kept.age_ms(x.now) <= asked.max_age_ms):
                return (yield from self._replay(x, kept))
        x.tape = Tape(name, owner, self._policy.max_entry, claimed=claimed)
        x.cache = "miss"
        x.headers.append((_HEADER, b"miss"))
        yield Emit("cache", "miss", x.who)
        return None

    def _replay(self, x: Exchange, kept: Kept) -> Steps[Refuse | Replay]:
        refusal = yield from self._gate(x)
        if refusal is not None:
            return refusal
        x.cache, x.saved_nano = "hit", kept.cost_nano
        x.status, x.bytes_out, x.first_byte_at = 200, len(kept.body), x.now
        try:
            yield Spool(_record(x, kept))
        except SpoolFull as error:
            return Refuse("accounting_unavailable", 503, f"spend cannot be recorded now: {error}", retry_after=5)
        yield Emit("cache", "hit", x.who)
        headers = [
            (b"content-type", kept.content_type.encode("latin-1")),
            (b"x-llmguard-request-id", x.event_id.encode()),
            (b"x-llmguard-target", f"{x.target.provider}/{x.target.model}".encode("latin-1", "replace")),
            (_HEADER, b"hit; age=%d" % (kept.age_ms(x.now) // 1000)),
            *x.headers,
        ]
        if not kept.stream:
            headers.append((b"x-llmguard-cost-usd", b"0"))
        return Replay(200, headers, kept.chunks())

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Nothing to look after."""
        yield from ()
        return None

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """Keep a reply that is whole and as the caller asked for it; else let the next caller fetch it."""
        tape = x.tape
        if tape is None:
            return
        kept = _kept(x, tape, ending)
        if kept is not None:
            yield Keep(tape.name, tape.owner, x.event_id, kept, self._policy.ttl_ms)
        elif tape.claimed:
            yield GiveUp(tape.name, tape.owner, x.event_id)


def _kept(x: Exchange, tape: Tape, ending: Ending) -> Kept | None:
    """The reply, where it may answer others: not an error, not cut or broken off, not one whose output we had limited,
    and with the provider's own word on what it cost."""
    reader, usage, cost = x.reader, x.usage, x.cost
    if ending is not Ending.DONE or x.status != 200 or reader is None or usage is None or cost is None:
        return None
    if reader.failed or x.source is not Source.PROVIDER or x.edits.max_tokens is not None:
        return None
    if x.call.stream and not (reader.finished or (x.call.family == "gemini" and reader.finish_reason is not None)):
        return None  # Gemini has no event of its own for the end
    body = tape.body(reader.held())
    if body is None or tape.content_type is None:
        return None
    tokens = usage.input_tokens, usage.output_tokens
    return Kept(tape.content_type, body, x.call.stream, x.now, cost.total, reader.model, reader.finish_reason, *tokens)


def _record(x: Exchange, kept: Kept) -> SettleRecord:
    record = settle_record(x, Usage(), _FREE, Source.PROVIDER, Ending.DONE)
    served = kept.model_served or x.target.model
    return record._replace(entry=record.entry._replace(model_served=served, finish_reason=kept.finish_reason))
