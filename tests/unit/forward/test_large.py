"""Usage found at the ends of a reply too large to hold."""

from __future__ import annotations

import json
import random

import pytest

from llmguard.forward.large import LargeReply

VECTORS = [{"object": "embedding", "embedding": [0.125] * 50_000, "index": i} for i in range(3)]
USAGE = {"prompt_tokens": 12, "total_tokens": 12}


@pytest.mark.parametrize(
    "document",
    [
        {"object": "list", "data": VECTORS, "model": "m", "usage": USAGE},
        {"usage": USAGE, "model": "m", "id": "x", "data": VECTORS},
        {"model": "m", "note": 'quoted "usage": {"prompt_tokens": 99}', "data": VECTORS, "usage": USAGE},
    ],
)
def test_the_members_are_found_however_the_bytes_are_cut(document: dict[str, object]) -> None:
    body = json.dumps(document).encode()
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    reply, at = LargeReply(), 0
    while at < len(body):
        size = rng.randint(1, 40_000)
        reply.feed(body[at : at + size])
        at += size
    found = json.loads(reply.digest())
    assert reply.size == len(body)
    assert found["usage"] == USAGE
    assert found["model"] == "m"
    assert found.get("id") == document.get("id")


def test_only_the_ends_are_kept() -> None:
    reply = LargeReply()
    for _ in range(1_000):
        reply.feed(b"x" * 10_000)
    assert len(reply._head) + sum(map(len, reply._tail)) < 160 * 1024


def test_nothing_to_find_is_an_empty_document() -> None:
    reply = LargeReply()
    reply.feed(b"\xff\xfe not json")
    assert reply.digest() == b"{}"
