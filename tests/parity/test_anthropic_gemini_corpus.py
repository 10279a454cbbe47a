"""Every recorded Anthropic and Gemini interaction: requests parse, usage is as expected, no byte is changed."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from llmguard.core import sse
from llmguard.core.call import Call, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Dialect, Reader
from llmguard.errors import BadCall
from llmguard.providers.anthropic_messages import AnthropicMessages
from llmguard.providers.gemini_embed import GeminiEmbed
from llmguard.providers.gemini_generate import GeminiGenerate
from llmguard.providers.routes import RouteTable
from tests.support.pieces import first_late_piece, random_pieces, terminal_start
from tests.support.recordings import records, reply_bytes

OPS = {"messages", "messages.count_tokens", "generateContent", "streamGenerateContent", "countTokens", "embedContent"}
DIALECTS: dict[str, Dialect] = {d.name: d for d in (AnthropicMessages(), GeminiGenerate(), GeminiEmbed())}
TABLE = RouteTable({"anthropic": "anthropic", "gemini": "gemini", "vertex": "gemini"})
RECORDS = [r for r in records("anthropic", "google", "openai", "openrouter", "other") if r["op"] in OPS]
STREAMS = [r for r in RECORDS if r["stream_format"] and r["response"]["status"] == 200]
SEED = random.SystemRandom().randrange(2**32)

REFUSED = {"4e3567385fb2045a": "a message that is a string instead of an object; the provider answered 400"}
"""Recorded requests that must be refused, with the reason."""
CONTRADICTORY = {
    "3c11b2b5e2e38f0b": "expected none without promptTokenCount, while b474f9d963cd8588, the same unstreamed, expects 0"
}
"""Recordings whose expected usage contradicts another's, with the reason."""
RUN_TOGETHER = {"0eebd1a59cf31426": "no blank lines between its events, so they are one, whose data is no JSON"}


def call_of(record: dict[str, Any], body: bytes | None = None) -> tuple[Dialect, Call]:
    """The recorded request, routed and parsed as a caller of the guard would send it."""
    path, _, query = (record["endpoint"]["path"] or "").partition("?")
    path = path.removeprefix("/api")
    if path.startswith("/models/"):
        path = "/v1beta" + path
    prefix = "/vertex" if record["provider"] == "vertex" else ""
    route = TABLE.match("POST", prefix + path)
    assert route is not None, path
    if body is None:
        body = json.dumps(record["request"]["body"], ensure_ascii=False).encode()
    dialect = DIALECTS[route.dialect]
    return dialect, dialect.parse(Request("POST", route.path, query, {}, body), route.endpoint, route.model)


def reader_of(record: dict[str, Any]) -> Reader:
    """A reader for the recorded reply; a recording without its request gets the simplest one."""
    body = None
    if record["request"]["body_kind"] != "json" or record["id"] in REFUSED:
        body = b'{"model":"m"}' if record["provider"] in ("anthropic", "openai-compat") else b"{}"
    dialect, call = call_of(record, body)
    return dialect.reader(call, asked_usage=False)


def reported(reader: Reader) -> dict[str, int | None] | None:
    usage = reader.usage
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def as_expected(record: dict[str, Any], got: dict[str, int | None] | None) -> bool:
    """Where a provider's total is not the sum of its parts, the recordings' README accepts either."""
    usage = record["usage_expected"]
    if got is None or usage is None:
        return got is usage
    if got == {name: usage[name] for name in got}:
        return True
    total = got["input_tokens"] + got["output_tokens"]  # type: ignore[operator]
    return "usage_total_mismatch" in record["tags"] and total == usage["total_reported"]


def fed(reader: Reader, body: bytes, cuts: list[int]) -> bytes:
    """The bytes that come out when the body arrives in these pieces."""
    out = b"".join(reader.feed(body[a:b]) for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b)
    return out + reader.flush()


def test_the_recordings_are_all_there() -> None:
    assert len(RECORDS) == 2004
    assert len(STREAMS) == 514


def test_every_recorded_request_parses_or_is_refused_for_a_reason() -> None:
    refused = {}
    for record in RECORDS:
        if record["request"]["body_kind"] == "json":
            try:
                call_of(record)
            except BadCall as bad:
                refused[record["id"]] = bad.message
    assert {name: message for name, message in refused.items() if name not in REFUSED} == {}
    assert set(refused) == set(REFUSED)


def test_the_usage_of_every_reply_is_as_expected() -> None:
    wrong = []
    for record in RECORDS:
        reader = reader_of(record)
        if record["stream_format"]:
            fed(reader, reply_bytes(record), [])
        else:
            kind = record["response"]["headers"].get("content-type", "application/json")
            reader.whole(record["response"]["status"], kind, reply_bytes(record))
        got = reported(reader)
        if not as_expected(record, got):
            wrong.append((record["id"], record["op"], got, record["usage_expected"]))
    assert [case for case in wrong if case[0] not in CONTRADICTORY] == []
    assert {case[0] for case in wrong} == set(CONTRADICTORY)


def test_streams_pass_unchanged_and_are_read_alike_however_they_are_cut() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for record in STREAMS:
        body = reply_bytes(record)
        whole = reader_of(record)
        assert fed(whole, body, []) == body
        ways = [sorted(rng.sample(range(len(body) + 1), min(len(body), rng.choice((1, 3, 20))))) for _ in range(3)]
        events = [m.end() for m in re.finditer(rb"\r?\n\r?\n", body)]
        for cuts in [*ways, events]:
            reader = reader_of(record)
            assert fed(reader, body, cuts) == body, (record["id"], cuts)
            assert reported(reader) == reported(whole), (record["id"], cuts)
            assert (reader.finish_reason, reader.model) == (whole.finish_reason, whole.model), (record["id"], cuts)
            assert (reader.generated, reader.created) == (whole.generated, whole.created), (record["id"], cuts)


def test_streams_pass_unchanged_byte_by_byte() -> None:
    short = sorted(STREAMS, key=lambda r: len(reply_bytes(r)))
    for record in (*short[:60], *[r for r in short if r["stream_format"] == "json_array"][:4]):
        body = reply_bytes(record)
        reader, whole = reader_of(record), reader_of(record)
        fed(whole, body, [])
        assert fed(reader, body, list(range(1, len(body)))) == body
        assert reported(reader) == reported(whole)


def test_the_end_of_a_stream_is_held_back_until_it_is_flushed() -> None:
    """An SDK must not be able to see that the answer is complete before its cost is written down."""
    for record in STREAMS:
        reader, body = reader_of(record), reply_bytes(record)
        out = reader.feed(body)
        if reader.usage is None:
            continue
        if record["op"] == "messages":
            assert b"message_stop" not in out
            assert reader.finished == (not body.endswith(b'"message_stop"}\n'))
        elif record["stream_format"] == "json_array":
            assert not out.rstrip().endswith(b"]")
            assert reader.finished
        else:
            assert out.count(b"data:") < body.count(b"data:")
            assert not reader.finished


def test_pieces_pass_as_they_arrive_up_to_the_terminal_event() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    late = {}
    for record in STREAMS:
        if record["stream_format"] == "sse":
            body = reply_bytes(record)
            until = terminal_start(reader_of(record), body)
            line_ends = b"\r\n" if record["op"] == "streamGenerateContent" else b""
            if line_ends:
                until -= 1  # the LF that ends the event before may wait together with the terminal one
            found = first_late_piece(reader_of(record), body, rng, until, may_wait=line_ends)
            if found:
                late[record["id"]] = found
    assert late == {}


def test_pieces_of_an_array_pass_as_they_arrive_up_to_the_last_element() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for record in STREAMS:
        if record["stream_format"] == "json_array":
            body = reply_bytes(record)
            by_byte, reader = reader_of(record), reader_of(record)
            last = next(at for at in range(len(body)) if not by_byte.feed(body[at : at + 1]))
            arrived = released = 0
            for piece in random_pieces(body, rng):
                out = reader.feed(piece)
                arrived += len(piece)
                assert out is piece or arrived > last, (record["id"], arrived)
                released += len(out)
            assert last - 3_000 < released <= last
            assert json.loads(body[: last + 1] + b"]")


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_a_cut_stream_is_whole_events_and_ends_with_an_error(rate: float) -> None:
    refuse = Refuse("budget_exceeded", 429, "the budget is spent", unit="usd", limit=10, spent=10, held=0)
    for record in STREAMS:
        body = reply_bytes(record)
        reader = reader_of(record)
        end = int(len(body) * rate)
        out = reader.feed(body[:end]) + reader.cut(refuse, "0190-rid")
        if record["stream_format"] == "json_array":
            assert json.loads(out)[-1]["error"]["llmguard"]["request_id"] == "0190-rid"
            continue
        if record["id"] in RUN_TOGETHER:
            continue
        events = map(sse.data, sse.split(out))
        documents = [json.loads(data) for data in events if data]
        assert documents[-1]["error"]["llmguard"]["request_id"] == "0190-rid"
