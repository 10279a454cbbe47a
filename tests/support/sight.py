"""What a running gateway has written: whole ledger entries, and the buckets of its quota store."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import sqlalchemy as sa
from redis import Redis

from llmguard.ledger.engine import create_engine, reading
from llmguard.ledger.models import entries as table
from tests.support.gateway import Gateway
from tests.support.valkey import ValkeyServer

PARTS = ("settled", "orphan", "held", "exposure")


def entries(served: Gateway, **where: Any) -> list[dict[str, Any]]:
    """Ledger entries with all their columns, in order of time."""
    engine = create_engine(json.loads(served.path.read_text())["ledger"])
    query = sa.select(table).filter_by(**where).order_by(table.c.created_at, table.c.event_id)
    try:
        with reading(engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
    finally:
        engine.dispose()


def entry_of(served: Gateway, timeout: float = 10.0, **where: Any) -> dict[str, Any]:
    """The only entry of a call, once it is there."""
    deadline = time.monotonic() + timeout
    while not (found := entries(served, **where)) and time.monotonic() < deadline:
        time.sleep(0.03)
    assert len(found) == 1, (where, found)
    return found[0]


def levels(store: ValkeyServer, buckets: str) -> Counter[str]:
    """The sums over the buckets whose names begin so: unit and window, such as `usd|total`."""
    found = Counter(dict.fromkeys(PARTS, 0))
    with Redis.from_url(store.tcp_url, decode_responses=True) as client:
        for name in client.scan_iter(match=f"*b:{buckets}*"):
            values = client.hgetall(name)
            found.update({part: int(values.get(part, 0)) for part in PARTS})
    return found


def check_store(store: ValkeyServer, settled: int, timeout: float = 5.0) -> None:
    """The store, within ``timeout`` seconds, has settled this much over all windows `total`, and holds nothing more."""
    expected = dict.fromkeys(PARTS, 0) | {"settled": settled}
    deadline = time.monotonic() + timeout
    while (kept := levels(store, "usd|total")) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kept == expected, f"{dict(kept)}, not {expected}"
    running = levels(store, "calls")
    assert not +running, running
