"""A sample of the recorded interactions once more, through guarded clients: the provider's bytes, the ledger's numbers.

The parity suite replays all of them through the gateway; here every twelfth is enough to show that the same readers see
the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmguard.integrations.httpx import http_client
from tests.support.inside import inside, ledger_rows
from tests.support.recordings import FOLDER, records
from tests.support.replay import Case, Recordings, cases, provider_config
from tests.support.upstream import upstream

EVERY = 12
SEED = random.SystemRandom().randrange(2**32)
USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
FILES = ("openai", "anthropic", "google")


def _sample() -> list[Case]:
    every = [case for name in FILES for case in cases(records(name))]
    fit = [case for case in every if case.usage is not None and case.refused_param is None and _agrees(case)]
    return random.Random(SEED).sample(fit, min(len(fit), len(fit) // EVERY + 1))


def _agrees(case: Case) -> bool:
    """Leaves out errors, and the few event streams whose head says that they are something else."""
    return case.status == 200 and case.reply.startswith((b"data:", b"event:")) == ("event-stream" in case.content_type)


def test_recorded_replies_are_handed_on_and_charged_as_by_the_gateway(tmp_path: Path) -> None:
    if not FOLDER.exists():
        pytest.skip(f"no recorded traffic at {FOLDER} (set LLMGUARD_CORPORA)")
    todo = _sample()
    print(f"{len(todo)} recordings, seed {SEED}")
    with upstream() as provider:
        provider.reply(Recordings(todo, SEED))
        config = provider_config(todo, provider.origin)
        for name, one in config["providers"].items():  # a path for each, since all of them are one server
            one["base_url"] = one["base_url"].replace(provider.origin, f"{provider.origin}/{name}")
        with inside(tmp_path, **config) as world:
            with http_client(guard=world.guard, team="search", env="prod", timeout=60) as client:
                faults = {case.id: list(_faults(client, provider.origin, case)) for case in todo}
            assert {name: found for name, found in faults.items() if found} == {}
            world.guard.close()
            rows = {row["feature"]: row for row in ledger_rows(world.guard.config.ledger)}
    assert len(rows) == len(todo)
    wrong = {case.id: rows[case.id] for case in todo if not _as_expected(case, rows[case.id])}
    assert wrong == {}


def _faults(client: Any, origin: str, case: Case) -> Iterator[str]:
    headers = {"content-type": "application/json", "user-agent": f"replay/{case.id}", "x-llmguard-feature": case.id}
    reply = client.post(origin + case.target, content=case.body, headers=headers)
    if reply.status_code != case.status:
        yield f"status {reply.status_code}: {reply.content[:200]!r}"
    elif reply.content != case.returned:
        yield f"another body came back: {reply.content[:200]!r} … {reply.content[-200:]!r}"


def _as_expected(case: Case, row: Mapping[str, Any]) -> bool:
    usage = case.usage
    assert usage is not None
    if all(row[name] == usage[name] or (usage[name] is None and row[name] == 0) for name in USAGE):
        return bool(row["usage_source"] == "provider")
    return (
        "usage_total_mismatch" in case.record["tags"]
        and row["input_tokens"] + row["output_tokens"] == usage["total_reported"]
    )
