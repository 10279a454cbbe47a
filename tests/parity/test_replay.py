"""Every recorded interaction once more, through a running gateway: the caller gets the provider's bytes, the ledger its
numbers.

One gateway and one upstream serve all of them; each file of recordings is a test of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import httpx2
import pytest

from llmguard.core.money import FEMTO_PER_NANO
from llmguard.guard import Guard
from llmguard.pricing import Catalog
from tests.support.gateway import Gateway, gateway
from tests.support.recordings import FOLDER, records
from tests.support.replay import (
    FEE_NANO,
    INPUT_NANO,
    OPS,
    OUTPUT_NANO,
    Case,
    Recordings,
    cases,
    claim,
    provider_config,
    same_but_masked,
)
from tests.support.tiers import TIERED, searches_in, tier_in
from tests.support.upstream import Upstream, upstream

FILES = sorted(path.name.partition(".")[0] for path in FOLDER.glob("*.jsonl.gz") if not path.name.startswith("pairs"))
TEAM = "search"
CALLS_AT_ONCE = 32
SEED = random.SystemRandom().randrange(2**32)

_JSON_HEAD = "an event stream whose head says JSON (and another model, of another year): relayed as one document"
CONTRADICTORY = {
    "7238f3c8b97eaeb9": f"{_JSON_HEAD}, so the usage that only the guard asked for stays in",
    "09f49718b0b723ed": f"{_JSON_HEAD}, so its head has a cost",
    "5c5c8ea75dacc15b": f"{_JSON_HEAD}, so its head has a cost; and its request asks for no stream",
}
"""Recordings that contradict themselves, with what comes of it."""
MALFORMED = {"4e3567385fb2045a": "messages"}
"""Recorded requests that the provider answered with 400 and the guard refuses itself, with the field that is wrong."""

_USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True)
class Replayed:
    """What a caller got."""

    case: Case
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["x-llmguard-request-id"]


@dataclass(frozen=True)
class World:
    """The running gateway with its prices, its upstream and the caller's key."""

    served: Gateway
    provider: Upstream
    recordings: Recordings
    key: str
    book: Catalog


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    every = cases(records(*FILES))
    with upstream() as provider:
        recordings = Recordings(every, SEED)
        provider.reply(recordings)
        ample = {"name": "ample", "scope": {"team": "*"}, "limit": "$1000000", "window": "total"}
        config = provider_config(every, provider.origin) | {"budgets": [ample]}
        with gateway(tmp_path_factory.mktemp("replay"), config) as served:
            guard = Guard(str(served.path))
            claim(guard, every, TEAM)
            yield World(served, provider, recordings, served.key(TEAM, feature="*"), guard.catalog)


async def _replay(world: World, file: str, todo: Sequence[Case]) -> list[Replayed]:
    gate = asyncio.Semaphore(CALLS_AT_ONCE)

    async def one(client: httpx2.AsyncClient, case: Case) -> Replayed:
        async with gate:
            url, own = world.served.url + case.target, {"user-agent": f"replay/{case.id}"}
            reply = await client.post(url, content=case.body, headers=own)
            return Replayed(case, reply.status_code, reply.headers, reply.content)

    headers = {"authorization": f"Bearer {world.key}", "content-type": "application/json", "x-llmguard-feature": file}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as client:
        return await asyncio.gather(*(one(client, case) for case in todo))


@pytest.mark.parametrize("file", FILES)
def test_the_recordings_come_through_unchanged_and_are_charged_right(file: str, world: World) -> None:
    todo = cases(records(file))
    done = asyncio.run(_replay(world, file, todo))
    world.provider.requests.clear()
    admitted = [one for one in done if _refused_param(one.case) is None]
    rows = {row["event_id"]: row for row in world.served.wait_for_rows(len(admitted), 30, feature=file)}
    reporting = sum(one.case.usage is not None for one in admitted)
    print(f"{file}: {len(done)} recordings, {len(admitted)} sent on, {reporting} report usage; seed {SEED}")

    unadmitted = [one for one in done if _refused_param(one.case) is not None]
    assert [fault for one in unadmitted for fault in _wrongly_refused(one, world)] == []
    assert rows.keys() == {one.event_id for one in admitted}
    faults = {one.case.id: list(_wrong(one, rows[one.event_id], world)) for one in admitted}
    faulty = {name: found for name, found in faults.items() if found}
    assert {name: found for name, found in faulty.items() if name not in CONTRADICTORY} == {}
    assert faulty.keys() == faults.keys() & CONTRADICTORY.keys()


def _refused_param(case: Case) -> str | None:
    return case.refused_param or MALFORMED.get(case.id)


def _wrongly_refused(done: Replayed, world: World) -> Iterator[str]:
    error = json.loads(done.body)["error"]
    param = error.get("param") or error["details"]["param"]
    if (done.status, param) != (400, _refused_param(done.case)) or done.case.id in world.recordings.seen:
        yield f"{done.case.id}: {done.status} {error}"


def _wrong(done: Replayed, row: Mapping[str, Any], world: World) -> Iterator[str]:
    case, seen = done.case, world.recordings.seen.get(done.case.id)
    if seen is None:
        yield f"never reached the provider: {done.status} {done.body[:300]!r}"
        return
    if json.loads(seen.body) != case.sent_on or (not case.asks_usage and seen.body != case.body):
        yield "another document was sent on"
    if any(world.key in value for _, value in seen.headers):
        yield "the caller's key was sent on"
    if done.status != case.status:
        yield f"status {done.status} instead of {case.status}"
    if done.body != case.returned and not (case.status >= 400 and same_but_masked(done.body, case.reply)):
        yield f"another body came back: {done.body[:200]!r} … {done.body[-200:]!r}"
    if done.headers["content-type"] != case.content_type:
        yield f"content-type {done.headers['content-type']}"
    cost = done.headers.get("x-llmguard-cost-usd")
    if (cost is None) != case.streams or (cost is not None and Decimal(cost) != Decimal(row["cost_nano"]).scaleb(-9)):
        yield f"the head says {cost}, the row {row['cost_nano']}"
    yield from _wrong_row(case, row, world.book)


def _wrong_row(case: Case, row: Mapping[str, Any], book: Catalog) -> Iterator[str]:
    if (row["status"], row["kind"], row["provider"]) != (case.status, "POST", case.provider):
        yield f"a row of {row['status']}, {row['kind']}, {row['provider']}"
    price = _price(case, row, book)
    if row["cost_nano"] != price:
        yield f"cost {row['cost_nano']} instead of {price}"
    if case.usage is None or case.passes_through:
        return
    if row["usage_source"] != "provider":
        yield f"usage is {row['usage_source']}"
    if not _as_expected(case, row):
        got, expected = ([usage[name] for name in _USAGE] for usage in (row, case.usage))
        yield f"usage {got} instead of {expected}"


def _price(case: Case, row: Mapping[str, Any], book: Catalog) -> int:
    """Errors cost nothing. What a reply says of its tier and of searches is added to the tokens of the row.

    A provider that names more cached tokens than its prompt has bills them all.
    """
    if case.status >= 400:
        return 0
    if case.passes_through:
        return FEE_NANO
    parts = (row["cached_input_tokens"] or 0) + (row["cache_write_tokens"] or 0)
    tokens = int(max(row["input_tokens"], parts) * INPUT_NANO + row["output_tokens"] * OUTPUT_NANO)
    if case.usage is None or case.record["op"] not in TIERED:
        return tokens
    price = book.quote(case.provider, row["model_requested"], tier_in(case.record)).price
    premium = Fraction(price.rates.input, INPUT_NANO * FEMTO_PER_NANO)
    return int(tokens * premium) + price.searches(*searches_in(case.record)) // FEMTO_PER_NANO


def _as_expected(case: Case, row: Mapping[str, Any]) -> bool:
    """A part that the recordings' rules do not read may be reported as zero.

    Where a provider's total is not the sum of its parts, the recordings' README accepts either.
    """
    usage = case.usage
    assert usage is not None
    if all(row[name] == usage[name] or (usage[name] is None and row[name] == 0) for name in _USAGE):
        return True
    total = row["input_tokens"] + row["output_tokens"]
    return "usage_total_mismatch" in case.record["tags"] and total == usage["total_reported"]


def test_nothing_is_left_running_or_unrecorded(world: World) -> None:
    metric = world.served.metric
    assert metric("llmguard_live_calls") == metric("llmguard_spool_records_unshipped") == 0
    assert metric("llmguard_calls_total") == len(world.served.rows())


def test_recorded_reads_reach_nothing_that_is_another_teams(world: World) -> None:
    """Stored responses, lists of them, and the account's own usage."""
    before, stranger = len(world.provider.requests), world.served.key("strangers")
    for record in records(*FILES):
        if record["op"] in OPS and record["endpoint"]["method"] == "GET":
            url = f"{world.served.url}/{record['provider']}-openai{record['endpoint']['path']}"
            reply = httpx2.get(url, headers={"authorization": f"Bearer {stranger}"})
            code = reply.json()["error"]["code"]
            assert (reply.status_code, code) in [(403, "operation_forbidden"), (404, "object_not_found")]
    assert len(world.provider.requests) == before
