"""Recorded provider traffic, read from $LLMGUARD_CORPORA; see the README beside it for the fields of a record."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[2] / "../shared/corpora")) / "traffic"


def records(*files: str) -> Iterator[dict[str, Any]]:
    """All records of these files (`anthropic`, `google`, …); skips the test where the recordings are absent."""
    for name in files:
        path = FOLDER / f"{name}.jsonl.gz"
        if not path.exists():
            pytest.skip(f"no recorded traffic at {path} (set LLMGUARD_CORPORA)", allow_module_level=True)
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def reply_bytes(record: dict[str, Any]) -> bytes:
    """The reply's body as it came over the wire."""
    response = record["response"]
    text = response.get("sse_text") or response.get("body_text")
    return text.encode() if text is not None else json.dumps(response.get("body"), ensure_ascii=False).encode()
