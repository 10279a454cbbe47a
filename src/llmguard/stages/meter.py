"""What a call used and what that costs, written down before its last byte leaves."""

from __future__ import annotations

from msgspec.structs import replace

from llmguard.core.decision import Refuse
from llmguard.core.effects import Count, Spool, Steps
from llmguard.core.estimate import Estimate
from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import Cost
from llmguard.core.ports import PriceBook
from llmguard.core.records import PartialRecord, VoidRecord
from llmguard.core.usage import Source, Usage
from llmguard.stages.records import settle_record

_PARTIAL_BYTES = 4_096
_BYTES_PER_TOKEN = 4
_NOTHING = Cost(0, 0, 0)


class Meter:
    """Asks for usage, notes the progress of streams, prices the call and records it."""

    passive = False

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices

    def open(self, x: Exchange) -> Steps[Refuse | None]:
        """Never refuses."""
        yield from ()
        x.next_partial = _PARTIAL_BYTES
        if x.call.stream and not x.call.wants_usage_chunk:
            x.edits = replace(x.edits, ask_usage=True)
        return None

    def attend(self, x: Exchange) -> Steps[Refuse | None]:
        """Every two seconds or 4 KiB, write how far the stream has come, in case this process dies."""
        reader, guess = x.reader, x.estimate
        assert reader is not None
        assert guess is not None
        if x.bytes_out >= x.next_partial or x.now >= x.partial_at + 2_000:
            x.next_partial = x.bytes_out + _PARTIAL_BYTES
            x.partial_at = x.now
            each = -(-reader.generated // guess.choices)
            yield Spool(PartialRecord(x.event_id, reader.generated, min(guess.grown(each).nano, x.cap_nano)))
        return None

    def close(self, x: Exchange, ending: Ending) -> Steps[None]:
        """Write the settle record; a call that was never sent leaves only the mark that its hold means nothing."""
        if not x.sent:
            if x.hold_written:
                yield Spool(VoidRecord(x.event_id))
            return
        reader = x.reader
        if reader is not None and reader.service_tier is not None and _by_tokens(x):
            x.quote = self._prices.quote(x.target.provider, x.target.model, reader.service_tier)
        assert x.quote is not None
        reported = reader.usage if reader is not None else None
        if reported is not None and (ending is Ending.DONE or (reader is not None and reader.finished)):
            x.usage, x.source = reported, Source.PROVIDER
            x.cost = x.quote.price.cost(reported)
        elif x.status >= 300:  # nothing was generated: an error, or a word that it is to be had elsewhere
            x.usage, x.source, x.cost = Usage(), Source.PROVIDER, _NOTHING
        else:
            x.usage = yield from _estimated(x, ending)
            x.source = Source.ESTIMATED if _by_tokens(x) else Source.COUNTED
            x.cost = _within_hold(x, x.quote.price.cost(x.usage))
        yield Spool(settle_record(x, x.usage, x.cost, x.source, ending))


def _by_tokens(x: Exchange) -> bool:
    """Whether the call has a price by tokens, not one per request or none."""
    return x.call.metered and x.call.op == "generate"


def _estimated(x: Exchange, ending: Ending) -> Steps[Usage]:
    """Tokens of a call whose provider reported none: the counted prompt and what was seen of the answer.

    Before any answer, or where output is billed unseen, what was expected counts as generated, and so do the searches
    that were expected; what the prompt has beside text is priced as audio where it may be. No provider writes more than
    the caller named. What a provider reported before the stream broke off stands, as far as it goes.
    """
    guess, reader, call = x.estimate, x.reader, x.call
    assert guess is not None
    if not _by_tokens(x):
        return Usage()
    prompt = guess.input_tokens
    if not guess.exact and (reader is None or reader.usage is None):
        prompt = (yield Count(call, x.dialect, x.target.model, inline=True)) + call.extra_input_tokens
    seen = (reader.generated if reader is not None else 0) or _unread(x, guess)
    if ending is not Ending.DONE and (reader is None or not call.stream or call.hidden_output):
        seen = max(seen, guess.expected * guess.choices)
    if call.max_tokens is not None:
        seen = min(seen, call.max_tokens * guess.choices)
    reported = reader.usage if reader is not None else None
    media = call.extra_input_tokens if call.audio else None
    usage = Usage(prompt, seen, input_audio_tokens=media) if reported is None else reported
    web, file = usage.web_searches, usage.file_searches
    return replace(
        usage,
        output_tokens=max(usage.output_tokens, seen),
        web_searches=min(call.web_searches, 1) if web is None else web,
        file_searches=min(call.file_searches, 1) if file is None else file,
    )


def _unread(x: Exchange, guess: Estimate) -> int:
    """Output of a reply in which nothing could be read: its bytes at four a token, at most what the call could make."""
    if not x.call.generates:
        return 0
    return min(-(-x.bytes_out // _BYTES_PER_TOKEN), guess.max_output * guess.choices)


def _within_hold(x: Exchange, cost: Cost) -> Cost:
    if cost.total <= x.cap_nano or not x.call.generates:
        return cost
    fixed = min(cost.input, x.cap_nano)
    return Cost(x.cap_nano, fixed, x.cap_nano - fixed)
