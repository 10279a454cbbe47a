"""What the pages do: on the real guard, with the provider that comes with llmguard's pytest plugin."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

os.environ["DATABASE"] = f"sqlite:///{tempfile.mkdtemp()}/notes.db"

from main import app

from llmguard.testing import freeze_budgets, spend

pytestmark = pytest.mark.llmguard("llmguard.yaml", instrument=True)


@pytest.fixture
def client(llmguard_guard, llmguard_provider) -> Iterator[TestClient]:
    with TestClient(app, headers={"x-author": "ann"}) as opened:
        opened.post("/notes", json={"text": "We meet on Monday."})
        yield opened


def test_a_summary_is_kept_and_paid_by_its_author(client, llmguard_provider):
    llmguard_provider.reply("Monday.", usage=(1_000, 10))
    with spend() as spent:
        assert client.post("/notes/1/summary").json() == {"summary": "Monday."}
    assert spent.calls == 1
    assert spent.of(team="notes", feature="notes").usd == spent.usd == "0.000156"
    page = client.get("/").text
    assert "<li>Monday.</li>" in page
    assert "team-daily: $4.99" in page


def test_a_translation_is_streamed(client, llmguard_provider):
    llmguard_provider.reply("Wir treffen uns am Montag.", usage=(1_000, 10))
    with spend() as spent:
        assert client.get("/notes/1/in/German").text == "Wir treffen uns am Montag."
    assert spent.of(team="notes", feature="notes").calls == 1


def test_an_author_without_money_is_told_so_and_the_team_is_not(client, llmguard_provider):
    with freeze_budgets(exhausted="author-daily"):
        reply = client.post("/notes/1/summary")
    assert (reply.status_code, reply.headers["content-type"]) == (429, "application/problem+json")
    with freeze_budgets(exhausted="team-daily"):
        assert client.post("/notes/1/summary").status_code == 503
    assert llmguard_provider.requests == []


def test_programs_use_the_gateway_below_llm(client):
    assert client.get("/llm/livez").json() == {"status": "alive"}
    assert client.post("/llm/v1/chat/completions", json={}).status_code in (400, 401)
