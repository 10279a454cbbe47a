"""One team's calls through three doors at once: what the ledger, the store, the rollups and the provider add up to."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from llmguard.guard import Guard
from llmguard.integrations.httpx import http_client
from llmguard.ledger import rollups
from llmguard.ledger.engine import create_engine, reading
from tests.support.gateway import Gateway
from tests.support.replies import REPLY, chat_stream
from tests.support.sight import entries, levels
from tests.support.upstream import SSE, Answer, Seen, answer
from tests.support.web_world import Shared, chat, shared, world_of

KEYS = {"search": "chat", "ads": "mail", "slow": "x", "poor": "little"}
KINDS = ("new", "new", "new", "same", "same", "broken", "busy", "left")
SECTIONS: dict[str, Any] = {
    "cache": {"exact": {"ttl": "1h"}},
    "limits": [{"name": "slow", "scope": {"team": "slow"}, "limit": "3/hour"}],
}
CALLS = 96


def provider(bill: Counter[str]) -> Callable[[Seen], Answer]:
    """Answers by the first word of the prompt, and notes what it would bill for whole replies."""

    def reply(seen: Seen) -> Answer:
        body = seen.json()
        kind, _, number = body["messages"][0]["content"].partition(" ")
        if kind in ("broken", "busy"):
            return answer(status=500 if kind == "broken" else 429, json_body={"error": {"message": "no"}})
        usage = {"prompt_tokens": 100 + int(number), "completion_tokens": 20, "total_tokens": 120 + int(number)}
        if kind == "left":
            return Answer(200, [("content-type", SSE)], chat_stream(200, usage), "chunked", gap=0.02)
        bill["whole"] += usage["prompt_tokens"] * 5_000 + 20 * 15_000
        if body.get("stream"):
            return Answer(200, [("content-type", SSE)], chat_stream(5, usage), "chunked")
        return answer(json_body=REPLY | {"usage": usage})

    return reply


def play(common: Shared, doors: dict[str, tuple[Any, str]], keys: dict[str, str], seed: int) -> tuple[str, bool]:
    """One random call: its team, and whether the guard refused it."""
    dice = random.Random(seed)
    team, door, kind = dice.choice(list(KEYS)), dice.choice(list(doors)), dice.choice(KINDS)
    stream = kind == "left" or dice.random() < 0.4
    prompt = f"{kind} {dice.randrange(3) if kind == 'same' else seed % 10_000}"
    body = chat(messages=[{"role": "user", "content": prompt}]) | ({"stream": True} if stream else {})
    client, origin = doors[door]
    client = client[team] if isinstance(client, dict) else client
    headers = {"authorization": f"Bearer {keys[team]}"}
    with client.stream("POST", f"{origin}/v1/chat/completions", json=body, headers=headers, timeout=30) as reply:
        for number, _ in enumerate(reply.iter_raw()):
            if kind == "left" and number == 5:
                break
    return team, "x-llmguard-target" not in reply.headers


def test_everybody_adds_up_to_the_same(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    bill: Counter[str] = Counter()
    with shared(tmp_path, **SECTIONS) as common, ExitStack() as stack:
        common.provider.reply(provider(bill))
        served = common.served
        served.start()
        stack.callback(served.stop)
        web = stack.enter_context(world_of(common, "gunicorn-gthread", "tests.support.wsgi_served:application"))
        guard = Guard(str(served.path))
        stack.callback(guard.close)
        keys = _keys(guard, common)
        inside = {
            team: stack.enter_context(http_client(guard=guard, team=team, env="prod", feature=feature))
            for team, feature in KEYS.items()
        }
        doors = {
            "proxy": (httpx2, served.url),
            "wsgi": (httpx2, web.server.url),
            "inside": (inside, common.provider.origin),
        }
        with ThreadPoolExecutor(6) as pool:
            told = list(pool.map(lambda number: play(common, doors, keys, seed + number), range(CALLS)))
        rows = _rows(served, sum(not refused for _, refused in told))
        _the_store_agrees(common, rows)
        assert sum(row["cost_nano"] for row in rows if row["usage_source"] == "provider") == bill["whole"]
        assert sum(row["cache"] != "hit" for row in rows) == len(common.provider.requests)
        assert {row["cost_nano"] for row in rows if row["cache"] == "hit"} <= {0}
        assert all(row["saved_nano"] > 0 for row in rows if row["cache"] == "hit")
        _the_reports_agree(served, Counter(team for team, refused in told if refused))


def _keys(guard: Guard, common: Shared) -> dict[str, str]:
    ledger = guard.ledger()
    made = {team: ledger.keys.create(team, "prod", KEYS[team])[1] for team in ("ads", "slow")}
    ledger.close()
    return made | {"search": common.key, "poor": common.poor}


def _rows(served: Gateway, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 15
    while len(rows := entries(served)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(rows) == count
    return rows


def _the_store_agrees(common: Shared, rows: list[dict[str, Any]]) -> None:
    for team in KEYS:
        spent = sum(row["cost_nano"] for row in rows if row["team"] == team)
        deadline = time.monotonic() + 10
        while (kept := levels(common.store, f"usd|total|0|team={team}")) != Counter(settled=spent):
            assert time.monotonic() < deadline, (team, dict(kept), spent)
            time.sleep(0.1)


def _the_reports_agree(served: Gateway, refused: Counter[str]) -> None:
    engine = create_engine(f"sqlite:///{served.home / 'ledger.db'}")
    query = sa.text("SELECT team, SUM(refused) FROM llmguard_refusals GROUP BY team")
    deadline = time.monotonic() + 40
    try:
        while True:
            with reading(engine) as connection:
                found = Counter(dict(map(tuple, connection.execute(query))))
                assert rollups.differences(connection) == []
            if found == refused:
                return
            assert time.monotonic() < deadline, (dict(found), dict(refused))
            time.sleep(0.5)
    finally:
        engine.dispose()
