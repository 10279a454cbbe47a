"""Recorded traffic of everybody who speaks OpenAI's dialects, as bytes."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmguard.core.call import Request
from llmguard.core.usage import Usage

CORPORA = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[3] / "shared" / "corpora"))
TRAFFIC = CORPORA / "traffic"
ENDPOINTS = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)/")
_OTHER_DIALECT = {("embeddings", "cohere"), ("embeddings", "bedrock"), ("embeddings", "gemini")}


@dataclass(frozen=True)
class Recording:
    """One recorded call. ``request`` is None where the source kept only the reply; ``model`` is one in its path."""

    id: str
    provider: str
    op: str
    tags: frozenset[str]
    request: bytes | None
    model: str | None
    status: int
    body: bytes
    stream: bool
    usage: dict[str, Any] | None


@cache
def recordings() -> tuple[Recording, ...]:
    """All recordings of the four operations. Skips the test where the corpus is absent."""
    if not TRAFFIC.is_dir():
        pytest.skip(f"no recorded traffic at {TRAFFIC} (set LLMGUARD_CORPORA)")
    return tuple(_read())


def _read() -> Iterator[Recording]:
    for path in sorted(TRAFFIC.glob("*.jsonl.gz")):
        if path.name.startswith("pairs"):
            continue
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                op, provider = record["op"], record["provider"]
                if op in ENDPOINTS and (op, provider) not in _OTHER_DIALECT:
                    yield _recording(record)


def _recording(record: dict[str, Any]) -> Recording:
    request, response = record["request"], record["response"]
    text = response.get("sse_text", response.get("body_text"))
    if text is None:
        text = json.dumps(response.get("body"), ensure_ascii=False, separators=(",", ":"))
    body = request.get("body") if request["body_kind"] == "json" else None
    deployment = _DEPLOYMENT.search(record["endpoint"]["path"])
    return Recording(
        id=record["id"],
        provider=record["provider"],
        op=record["op"],
        tags=frozenset(record["tags"]),
        request=None if body is None else json.dumps(body, ensure_ascii=False).encode(),
        model=deployment[1] if deployment else None,
        status=response["status"],
        body=text.encode(),
        stream="sse_text" in response,
        usage=record["usage_expected"],
    )


def request(body: bytes, path: str) -> Request:
    """A POST as an adapter hands it to a dialect."""
    return Request("POST", path, "", {"content-type": "application/json"}, body)


def differences(got: Usage | None, expected: dict[str, Any], tags: frozenset[str]) -> list[str]:
    """What a usage gets wrong. A part that is not reported and a part of 0 are the same to a price."""
    if got is None:
        return ["no usage"]
    wrong = [
        f"{name}: {getattr(got, name)}, expected {expected.get(name)}"
        for name in (
            "input_tokens",
            "output_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
            "input_audio_tokens",
            "output_audio_tokens",
        )
        if (getattr(got, name) or 0) != (expected.get(name) or 0)
    ]
    total = got.input_tokens + got.output_tokens
    if wrong and "usage_total_mismatch" in tags and total == expected["total_reported"]:
        return []
    return wrong
