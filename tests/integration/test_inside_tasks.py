"""Guarded calls within the execution of a background task: what they cost is known of it, and refusals end it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmguard.core.call import Caller
from llmguard.core.runaway import Execution, TaskPolicy
from llmguard.core.runs import Peek, Seen
from llmguard.errors import TaskAborted
from llmguard.guard import Guard
from llmguard.integrations.httpx import async_http_client, http_client
from llmguard.runtime.context import carrying
from tests.support.inside import Inside, configuration, inside, ledger_rows, sandbox
from tests.support.upstream import upstream

BODY = {"model": "usage-9000-1000", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
CENT = {"name": "a-cent", "scope": {"team": "*"}, "limit": "$0.01", "window": "day"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Inside]:
    with inside(tmp_path, budgets=[CENT]) as running:
        yield running


@pytest.fixture
def execution() -> Execution:
    return Execution(TaskPolicy(), "tasks.summarise", "t-1", "task:t-1:0", "run-1", "tree-1")


def within(execution: Execution) -> Any:
    return carrying(Caller(team="search", feature="chat", task_id="t-1", tree_id="tree-1", execution=execution))


def test_the_execution_has_paid_once_a_call_was_billed(world: Inside, execution: Execution) -> None:
    url = f"{world.provider.origin}/v1/chat/completions"
    with within(execution), http_client(guard=world.guard) as client:
        client.post(url, json=BODY | {"model": "error-500"})
        assert (execution.paid, execution.spent_nano) == (False, 0)
        client.post(url, json=BODY)
    assert (execution.paid, execution.calls, execution.spent_nano) == (True, 1, 10_000_000)
    rows = world.rows(2, task_id="t-1", tree_id="tree-1", team="search")
    assert [row["cost_nano"] for row in rows] == [0, 10_000_000]


def test_a_call_that_was_not_billed_does_not_count_for_the_tree(world: Inside, execution: Execution) -> None:
    url = f"{world.provider.origin}/v1/chat/completions"
    with within(execution), http_client(guard=world.guard) as client:
        for model in ("error-500", BODY["model"], "error-429"):
            client.post(url, json=BODY | {"model": model})
    seen = world.guard.process().ask(Peek(("tree:tree-1",)))
    assert isinstance(seen, Seen)
    assert dict(seen.standings[0].counts) == {"calls": 1}


def test_an_ambiguous_call_counts_as_paid(world: Inside, execution: Execution) -> None:
    world.provider.reply(fault="hang", json_body={})
    url = f"{world.provider.origin}/v1/chat/completions"
    with within(execution), http_client(guard=world.guard) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(url, json=BODY, timeout=0.1)
    assert execution.paid


def test_after_three_refusals_the_body_is_aborted_through_every_except_exception(
    world: Inside, execution: Execution
) -> None:
    heard = []

    def body(client: Any, url: str) -> None:
        for _ in range(100):
            try:
                client.post(url, json=BODY).raise_for_status()
            except Exception as error:  # noqa: BLE001  as a body with a mistake in it does
                heard.append(error)

    with within(execution), http_client(guard=world.guard) as client:
        url = f"{world.provider.origin}/v1/chat/completions"
        client.post(url, json=BODY)
        with pytest.raises(TaskAborted, match=r"tasks.summarise\[t-1\] went on after 3 refusals"):
            body(client, url)
        assert (len(heard), execution.refusals, execution.aborted) == (3, 4, True)
        with pytest.raises(TaskAborted):
            client.post(url, json=BODY)
    assert len(world.provider.requests) == 1


def test_a_coroutine_that_swallows_the_abort_hears_the_next_one_later_and_blocks_nobody(
    world: Inside, execution: Execution
) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    async def main() -> float:
        heart = asyncio.create_task(beat())
        with within(execution):
            async with async_http_client(guard=world.guard) as client:
                url = f"{world.provider.origin}/v1/chat/completions"
                for _ in range(4):
                    await client.post(url, json=BODY)
                with pytest.raises(TaskAborted):
                    await client.post(url, json=BODY)
                since = time.monotonic()
                with pytest.raises(TaskAborted):
                    await client.post(url, json=BODY)
                heart.cancel()
                return time.monotonic() - since

    assert 0.25 <= asyncio.run(main()) < 1.0
    assert beats > 10
    assert {type(one) for one in execution.told} == {asyncio.tasks.Task}


def test_what_outlives_its_task_is_refused_and_not_aborted(world: Inside, execution: Execution) -> None:
    with within(execution), http_client(guard=world.guard) as client:
        url = f"{world.provider.origin}/v1/chat/completions"
        client.post(url, json=BODY)
        execution.ended = True
        assert {client.post(url, json=BODY).status_code for _ in range(6)} == {429}
    assert execution.refusals == 0


def test_refusals_of_our_own_gateway_count_alike_and_its_bills_are_paid_for(
    tmp_path: Path, execution: Execution
) -> None:
    from_guard = {"x-llmguard-request-id": "r", "x-should-retry": "false"}
    with inside(tmp_path) as world, upstream() as proxy:
        guard = Guard(configuration(tmp_path, world.provider.origin, gateway=proxy.origin))
        url = f"{proxy.origin}/v1/chat/completions"
        with within(execution), http_client(guard=guard) as client:
            proxy.reply(status=403, headers=from_guard, json_body={})
            assert [client.post(url, json=BODY).status_code for _ in range(3)] == [403] * 3
            assert not execution.paid
            with pytest.raises(TaskAborted, match="the gateway answered 403"):
                client.post(url, json=BODY)
            proxy.reply(headers={"x-llmguard-request-id": "r", "x-llmguard-target": "a/b"}, json_body={})
            client.post(url, json=BODY)
        guard.close()
    assert execution.paid


def test_greenlets_wait_and_are_charged_each_for_itself(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    program = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, llmguard
llmguard.configure(sys.argv[1])
client = llmguard.http_client()
def ask(name):
    with llmguard.context(team="search", env="prod", feature=name):
        gevent.sleep(0.01)
        body = {"model": "echo", "messages": [{"role": "user", "content": name}]}
        return client.post(sys.argv[2], json=body).status_code
jobs = [gevent.spawn(ask, f"f{number % 5}") for number in range(20)]
gevent.joinall(jobs, timeout=20)
assert [job.value for job in jobs] == [200] * 20
llmguard.get_guard().close()
"""
    with upstream() as provider:
        provider.reply(sandbox())
        config = configuration(tmp_path, provider.origin)
        path = tmp_path / "llmguard.yaml"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        command = [sys.executable, "-c", program, str(path), f"{provider.origin}/v1/chat/completions"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr[-2_000:]
    rows = ledger_rows(config["ledger"])
    assert sorted(row["feature"] for row in rows) == sorted(f"f{number % 5}" for number in range(20))
