"""FastAPI applications that call LLMs from their views: whom it is charged to, what is left, and how refusals sound."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.support.gateway import Gateway
from tests.support.replies import COST, REPLY, USAGE, chat_stream
from tests.support.sight import entries
from tests.support.upstream import Upstream, upstream
from tests.support.web_servers import WebServer, web_server


@dataclass(frozen=True)
class World:
    server: WebServer
    served: Gateway
    provider: Upstream

    def get(self, path: str, user: str | None = None) -> httpx2.Response:
        headers = {"x-user": user} if user else {}
        return httpx2.get(self.server.url + path, headers=headers, timeout=20)

    def row_of(self, feature: str) -> dict[str, Any]:
        """The last call of a view, once it is written."""
        deadline = time.monotonic() + 10
        while not (found := entries(self.served, feature=feature)) and time.monotonic() < deadline:
            time.sleep(0.03)
        return found[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("fastapi")
    with upstream() as provider:
        local = {"dialect": "openai", "base_url": provider.origin, "keys": ["k"], "internal": True, "default": True}
        budgets = [
            {"name": "team", "scope": {"team": "search"}, "limit": "$1", "window": "total"},
            {"name": "poor", "scope": {"team": "poor"}, "limit": "$0.0005", "window": "hour"},
            {"name": "user", "scope": {"feature": "greedy", "end_user": "*"}, "limit": "$0.008", "window": "hour"},
        ]
        config = {"providers": {"local": local}, "prices": {"local/*": {"input": "$5/M", "output": "$15/M"}}}
        served = Gateway(home, config | {"budgets": budgets})
        served.run("migrate")
        provider.reply(json_body=REPLY)
        env = {"SERVED_CONFIG": str(served.path), "UPSTREAM": provider.origin}
        with web_server("uvicorn", "tests.support.fastapi_served:app", home, probe="/budget", env=env) as server:
            yield World(server, served, provider)


@pytest.mark.parametrize("view", ["sync", "async", "thread", "background"])
def test_calls_of_a_view_are_charged_as_it_says(world: World, view: str) -> None:
    reply = world.get(f"/{view}", user="ann")
    assert reply.status_code == 200, reply.text
    row = world.row_of(view)
    user = "ann" if view in ("sync", "async") else None
    assert (row["team"], row["end_user"], row["cost_nano"]) == ("search", user, COST)


def test_calls_made_while_a_reply_is_sent_are_charged_too(world: World) -> None:
    world.provider.queue(sse=b"".join(chat_stream(3, USAGE)))
    assert world.get("/stream").text == "wwwww0 wwwww1 wwwww2 "
    row = world.row_of("stream")
    assert (row["team"], row["stream"], row["cost_nano"]) == ("search", True, COST)


def test_a_page_shows_what_is_left(world: World) -> None:
    before = world.get("/budget").json()
    assert world.get("/sync").status_code == 200
    ((rule, limit, spent, held, left),) = world.get("/budget").json()
    assert (rule, limit, held) == ("team", 1_000_000_000, 0)
    assert spent == before[0][2] + COST
    assert left == limit - spent


def test_an_application_whose_budget_is_gone_answers_503(world: World) -> None:
    calls = len(world.provider.requests)
    reply = world.get("/poor")
    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/problem+json"
    assert int(reply.headers["retry-after"]) > 0
    said = reply.json()
    assert (said["status"], said["title"], said["code"]) == (503, "Service Unavailable", "request_exceeds_budget")
    assert "poor" not in reply.text
    assert "$" not in reply.text
    assert len(world.provider.requests) == calls
    assert "Traceback" not in world.server.log.read_text()


def test_a_user_whose_own_budget_is_gone_hears_429(world: World) -> None:
    codes = [world.get("/greedy", user="bob").status_code for _ in range(3)]
    assert codes == [200, 429, 429]
    reply = world.get("/greedy", user="bob")
    assert (reply.json()["status"], reply.headers["content-type"]) == (429, "application/problem+json")
    assert 0 < int(reply.headers["retry-after"]) <= 3600
    assert world.get("/greedy", user="eve").status_code == 200
