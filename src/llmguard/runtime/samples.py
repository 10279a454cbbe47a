"""A service's numbers for the operator."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.runtime.notices import Notices
from llmguard.runtime.service import Service
from llmguard.sinks.prometheus import Sample

_NO_LABELS: tuple[tuple[str, str], ...] = ()


def samples(service: Service) -> Iterator[Sample]:
    """What `/metrics` shows of this process."""
    events: dict[str, dict[tuple[tuple[str, str], ...], float]] = {
        "closed": {},
        "refused": {},
        "cut": {},
        "context": {},
        "cache": {},
    }
    for (event, code), number in service.tally.events.items():
        label = "ending" if event == "closed" else "code"
        events[event][((label, code),)] = number
    yield Sample("llmguard_calls", "Calls sent to a provider, by how they ended.", "counter", events["closed"])
    yield Sample("llmguard_refusals", "Calls refused, by code.", "counter", events["refused"])
    yield Sample("llmguard_cuts", "Streams cut in their middle, by code.", "counter", events["cut"])
    yield Sample("llmguard_contexts_rejected", "Signed contexts ignored, by why.", "counter", events["context"])
    yield Sample("llmguard_cache", "Calls that a kept reply might answer, hit or miss.", "counter", events["cache"])
    yield from _notices(service.notices)
    gauges = {
        "llmguard_live_calls": ("Calls running now.", len(service.runtime.live)),
        "llmguard_store_moves_owed": (
            "Settles and releases the quota store has not taken.",
            service.link.owed,
        ),
        "llmguard_store_drift": ("Calls that the last reconciliation had to settle again.", service.drift),
        "llmguard_spool_records_unshipped": (
            "Spool records not yet in the ledger.",
            max(service.spool.seq - service.shipper.shipped, 0),
        ),
        "llmguard_ready": ("Whether calls can be taken.", int(not service.not_ready())),
    }
    for name, (text, value) in gauges.items():
        yield Sample(name, text, "gauge", {_NO_LABELS: value})


def _notices(notices: Notices) -> Iterator[Sample]:
    """What was stopped, and whether those who should hear of it did."""
    events: dict[str, dict[tuple[tuple[str, str], ...], float]] = {"trip": {}, "warning": {}, "alert": {}, "row": {}}
    for (event, code), number in list(notices.events.items()):
        if event in events:
            label = "rule" if event in ("trip", "warning") else "outcome"
            events[event][((label, code),)] = number
    yield Sample("llmguard_trips", "What the runaway guard stopped, by rule.", "counter", events["trip"])
    yield Sample("llmguard_warnings", "What it would have or may soon have stopped.", "counter", events["warning"])
    yield Sample("llmguard_alerts", "Alerts for receivers, by outcome.", "counter", events["alert"])
    yield Sample("llmguard_notice_rows", "Trips and dead letters for the ledger, by outcome.", "counter", events["row"])
    dropped = {_NO_LABELS: float(notices.dropped)}
    yield Sample("llmguard_notices_dropped", "Rows and alerts given up because too many waited.", "counter", dropped)
