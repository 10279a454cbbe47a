"""Tiers of service and searches in every recorded interaction, against the replies' own words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from llmguard.core.call import Call, Request
from llmguard.core.ports import Dialect, Reader
from llmguard.core.usage import Usage
from llmguard.errors import BadCall
from llmguard.providers.anthropic_messages import AnthropicMessages
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_responses import OpenAIResponses
from tests.support.recordings import records, reply_bytes
from tests.support.tiers import searches_in, tier_in

_GEMINI = "/v1beta/models/{model}:"
DIALECTS: dict[str, tuple[Dialect, str]] = {
    "chat.completions": (OpenAIChat(), "/v1/chat/completions"),
    "responses": (OpenAIResponses(), "/v1/responses"),
    "messages": (AnthropicMessages(), "/v1/messages"),
    "generateContent": (GeminiGenerate(), _GEMINI + "generateContent"),
    "streamGenerateContent": (GeminiGenerate(), _GEMINI + "streamGenerateContent"),
}
Record = dict[str, Any]


def recorded() -> Iterator[Record]:
    for record in records("anthropic", "google", "openai", "openrouter", "other"):
        if record["op"] in DIALECTS and record["response"]["status"] == 200 and record["usage_expected"]:
            yield record


def call_of(record: Record) -> Call | None:
    """The recorded call; None where its request is missing or refused."""
    dialect, endpoint = DIALECTS[record["op"]]
    if record["request"]["body_kind"] != "json":
        return None
    body = json.dumps(record["request"]["body"], ensure_ascii=False).encode()
    model = record["model"]["request"] if endpoint.startswith(_GEMINI) else None
    query = "alt=sse" if record["stream_format"] == "sse" else ""
    try:
        return dialect.parse(Request("POST", endpoint, query, {}, body), endpoint, model)
    except BadCall:
        return None


def plain_call(record: Record) -> Call:
    dialect, endpoint = DIALECTS[record["op"]]
    query = "alt=sse" if record["stream_format"] == "sse" else ""
    body = b"{}" if endpoint.startswith(_GEMINI) else b'{"model":"m","messages":[]}'
    return dialect.parse(Request("POST", endpoint, query, {}, body), endpoint, "m" if body == b"{}" else None)


def read(record: Record, call: Call) -> Reader:
    reader = DIALECTS[record["op"]][0].reader(call, asked_usage=False)
    if record["stream_format"]:
        reader.feed(reply_bytes(record))
        reader.flush()
    else:
        reader.whole(200, "application/json", reply_bytes(record))
    return reader


def test_every_reply_is_read_for_the_tier_that_served_it() -> None:
    tiers: Counter[str | None] = Counter()
    for record in recorded():
        reader = read(record, call_of(record) or plain_call(record))
        assert reader.service_tier == tier_in(record), record["id"]
        tiers[reader.service_tier] += 1
    assert tiers["priority"] == 2
    assert tiers["flex"] == 1
    assert tiers["default"] > 1_900


def test_every_search_in_a_reply_is_counted_and_was_allowed_for() -> None:
    searches: Counter[str] = Counter()
    for record in recorded():
        call = call_of(record)
        usage = read(record, call or plain_call(record)).usage or Usage()
        web, file = usage.web_searches or 0, usage.file_searches or 0
        assert (web, file) == searches_in(record), record["id"]
        searches[record["op"]] += web
        assert call is None or (web <= call.web_searches and file <= call.file_searches), record["id"]
    assert searches["messages"] == 33
    assert searches["responses"] > 40
    assert searches["generateContent"] + searches["streamGenerateContent"] > 14
    assert searches["chat.completions"] == 6
