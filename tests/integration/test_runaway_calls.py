"""Callers of a gateway that run away: stopped, told of, and let go again by an operator."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from llmguard.core.signed import HEADER, HTTP, Signed
from llmguard.guard import Guard
from tests.support.gateway import Gateway, gateway
from tests.support.load import CHAT, metered
from tests.support.upstream import upstream
from tests.support.valkey import ValkeyServer

PRICE = {"input": "$5/M", "output": "$15/M", "output_max": 4_096}


def config(origin: str, store: ValkeyServer, **runaway: Any) -> dict[str, Any]:
    return {
        "providers": {"local": {"dialect": "openai", "base_url": origin, "keys": ["k"], "internal": True}},
        "prices": {"local/*": PRICE},
        "store": store.tcp_url,
        "runaway": {"mode": "enforce"} | runaway,
    }


def post(served: Gateway, key: str, words: str, **headers: str) -> httpx2.Response:
    body = {"model": "m", "user": "u-0", "max_tokens": 20, "messages": [{"role": "user", "content": words}]}
    return httpx2.post(served.url + CHAT, json=body, headers={"authorization": f"Bearer {key}"} | headers, timeout=30)


def test_a_feature_that_sends_one_prompt_for_ever_is_stopped_until_somebody_lifts_it(tmp_path: Path) -> None:
    with upstream() as provider, ValkeyServer() as store:
        provider.reply(metered(delay=0))
        with gateway(tmp_path, config(provider.origin, store, identical_prompts="3/10m")) as served:
            key = served.key()
            replies = [post(served, key, "Hello!") for _ in range(5)]
            assert [reply.status_code for reply in replies] == [200, 200, 200, 403, 403]
            error = replies[3].json()["error"]
            assert (error["code"], replies[3].headers["x-should-retry"]) == ("runaway_tripped", "false")
            assert error["llmguard"]["scope"] == {"feature": "chat"}
            assert (error["llmguard"]["limit"], error["llmguard"]["spent"]) == ("3", "4")
            client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=key)
            with pytest.raises(openai.PermissionDeniedError) as refused:
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi!"}])
            client.close()
            assert (refused.value.code, len(provider.requests)) == ("runaway_tripped", 3)
            (trip,) = json.loads(served.run("trips", "list", "--json").stdout)
            assert trip["name"] == "feature:default/search/prod/chat"
            served.run("trips", "reset", trip["name"])
            time.sleep(2.1)  # a trip is believed for two seconds
            assert post(served, key, "Something else").status_code == 200


def test_a_signed_tree_may_make_so_many_calls_whoever_of_it_makes_them(tmp_path: Path) -> None:
    with upstream() as provider, ValkeyServer() as store:
        provider.reply(metered(delay=0))
        with gateway(tmp_path, config(provider.origin, store, tree_calls=2)) as served:
            key = served.key()
            signer = Guard(str(served.path)).signer()

            def call(number: int, tree: str) -> int:
                signed = Signed(task_id=f"t{number}", tree_id=tree, depth=1)
                text = signer.sign(signed, HTTP, time.time_ns() // 1_000_000)
                return post(served, key, f"Number {number}", **{HEADER: text}).status_code

            assert [call(number, "root") for number in range(4)] == [200, 200, 403, 403]
            assert call(9, "another") == 200
            rows = served.wait_for_rows(3)
            assert [(row["task_id"], row["tree_id"]) for row in rows] == [
                ("t0", "root"),
                ("t1", "root"),
                ("t9", "another"),
            ]
