"""What recorded replies say about the tier that served them and the searches they made, read without any dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.recordings import reply_bytes

TIERED = frozenset(("chat.completions", "responses", "messages", "generateContent", "streamGenerateContent"))
"""Operations whose replies may name a tier or searches."""


def documents(record: Mapping[str, Any]) -> list[Any]:
    """The reply, or the events of its stream."""
    if record["stream_format"] != "sse":
        whole = json.loads(reply_bytes(record))
        return whole if isinstance(whole, list) else [whole]
    lines = record["response"]["sse_text"].splitlines()
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].lstrip().startswith("{")]


def tier_in(record: Mapping[str, Any]) -> str | None:
    """The last tier that a reply names, read without any dialect."""
    named = None
    for document in documents(record):
        outer = document.get("response") or document.get("message") or document
        usage = outer.get("usage") or outer.get("usageMetadata") or {}
        if record["op"] == "messages":
            named = usage.get("speed") or named
        else:
            named = outer.get("service_tier") or usage.get("service_tier") or usage.get("serviceTier") or named
    return None if named == "auto" else named


def queries_in(record: Mapping[str, Any]) -> list[str]:
    found = []
    for document in documents(record):
        for candidate in document.get("candidates") or ():
            found += (candidate.get("groundingMetadata") or {}).get("webSearchQueries") or []
    return found


def searches_in(record: Mapping[str, Any]) -> tuple[int, int]:
    """The searches of the web and of files that a reply says are billed, read without any dialect."""
    if record["op"].endswith("Content"):
        queries = {query for query in queries_in(record) if query}
        per_prompt = str(record["model"]["response"]).startswith(("gemini-1", "gemini-2"))
        return (min(len(queries), 1) if per_prompt else len(queries)), 0
    if record["op"] == "messages":
        return record["usage_expected"].get("web_search_requests") or 0, 0
    last = documents(record)[-1]
    if record["op"] == "responses":
        items = (last.get("response") or last).get("output") or []
        calls = [item for item in items if item["type"] == "web_search_call"]
        web = sum((call.get("action") or {}).get("type", "search") == "search" for call in calls)
        return web, sum(item["type"] == "file_search_call" for item in items)
    if "-search-" in str(record["model"]["response"]):
        return 1, 0
    details = (last.get("usage") or {}).get("server_tool_use_details") or {}
    return details.get("web_search_requests") or 0, 0
