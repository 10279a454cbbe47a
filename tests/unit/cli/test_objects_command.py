"""`llmguard objects claim`: the first team that claims an object owns it."""

from __future__ import annotations

import pytest

from tests.support.cli import SANDBOX, Cli


@pytest.fixture(autouse=True)
def configured(cli: Cli) -> None:
    cli.configure(SANDBOX)


def test_an_object_is_claimed_once(cli: Cli) -> None:
    claim = ["objects", "claim", "sandbox", "file", "file-1", "--team"]
    assert cli.ok(*claim, "search") == "file file-1 at sandbox belongs to default/search\n"
    assert cli.ledger().objects.owner("file", "sandbox", "file-1") == ("default", "search")
    assert cli.ok(*claim, "search") == "file file-1 at sandbox belongs to default/search\n"
    assert "already belongs to default/search" in cli.fails(1, *claim, "growth")
    assert "already belongs to default/search" in cli.fails(1, *claim, "search", "--org", "other")


@pytest.mark.parametrize("kind", ["response", "vector_store", "fine_tune", "cached_content", "upload", "message_batch"])
def test_every_kind_that_a_route_or_body_names(cli: Cli, kind: str) -> None:
    cli.ok("objects", "claim", "sandbox", kind, "x", "--team", "t")


@pytest.mark.parametrize(
    ("provider", "kind", "said"),
    [
        ("openai", "file", "'openai' is not configured; there are: sandbox"),
        ("sandbox", "files", "'files' is no kind of object; there are: assistant, batch,"),
        ("sandbox", "model", "'model' is no kind of object"),
    ],
)
def test_wrong_words(cli: Cli, provider: str, kind: str, said: str) -> None:
    assert said in cli.fails(2, "objects", "claim", provider, kind, "x", "--team", "t")
    assert cli.files() == {"llmguard.yaml"}


def test_a_claim_that_changes_something_is_in_the_audit_trail(cli: Cli) -> None:
    cli.ok("objects", "claim", "sandbox", "file", "file-1", "--team", "search")
    cli.fails(1, "objects", "claim", "sandbox", "file", "file-1", "--team", "growth")
    (record,) = cli.json("audit", "tail")
    assert (record["action"], record["subject"]) == ("object.claim", "file-1")
    assert record["details"] == {"provider": "sandbox", "kind": "file", "org": "default", "team": "search"}
