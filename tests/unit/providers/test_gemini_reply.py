"""What the Gemini readers see in replies, and how they end a stream, as the official SDK sees it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.providers.gemini_array import ArrayReader
from llmguard.providers.gemini_reply import GeminiReader, usage_of
from llmguard.providers.stream import MAX_HELD
from tests.support.upstream import upstream

REFUSE = Refuse("budget_exceeded", 429, "The budget search-hourly is spent.", unit="usd", limit=5 * 10**9)
SEED = random.SystemRandom().randrange(2**32)
Sdk = Callable[[bytes], tuple[str, list[Any], errors.APIError]]


def chunk(*some: dict[str, Any], finish: str | None = None, index: int = 0, **usage: int) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(some)}, "index": index}
    candidate |= {"finishReason": finish} if finish else {}
    counts = {"promptTokenCount": 9} | usage
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "gemini-2.5-flash"}


CHUNKS = [
    chunk({"text": 'Once {"a": [upon] \\ "'}, candidatesTokenCount=6, thoughtsTokenCount=30),
    chunk({"text": " a time, é\n\n"}, candidatesTokenCount=11, thoughtsTokenCount=30),
    chunk({"functionCall": {"name": "f", "args": {"x": 1}}}, candidatesTokenCount=20, thoughtsTokenCount=30),
    chunk({"text": "."}, finish="STOP", candidatesTokenCount=21, thoughtsTokenCount=30, cachedContentTokenCount=4),
]
EVENTS = [b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in CHUNKS]
NOTHING = {"role": "model", "parts": [{"text": ""}]}
PRETTY = [json.dumps(one, indent=2).encode() for one in CHUNKS]
ARRAY = b"[" + b"\n,\r\n".join(PRETTY) + b"\n]"
FINAL = Usage(9, 51, cached_input_tokens=4, reasoning_tokens=30)


def test_every_chunk_reports_usage_and_only_the_last_is_right() -> None:
    reader = GeminiReader(1)
    for event in EVENTS[:-1]:
        assert reader.feed(event) is event
        assert reader.usage is None
    assert reader.generated >= 50
    assert reader.feed(EVENTS[-1]) == b""
    assert reader.usage == FINAL
    assert (reader.model, reader.finish_reason, reader.failed) == ("gemini-2.5-flash", "STOP", False)
    assert not reader.finished, "only the end of the body is the end"
    assert reader.flush() == EVENTS[-1]


def test_usage_after_the_last_candidate_counts_and_waits_too() -> None:
    late = b'data: {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 99}}\r\n\r\n'
    reader = GeminiReader(1)
    reader.feed(b"".join(EVENTS))
    assert reader.feed(late) == b""
    assert reader.usage == Usage(9, 99)
    assert reader.flush() == EVENTS[-1] + late


def test_a_chunk_that_runs_code_is_not_the_end_although_it_says_so() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "print(6 * 7)"}}
    events = [b"data: " + json.dumps(chunk(code, finish="STOP", toolUsePromptTokenCount=5)).encode() + b"\n\n", *EVENTS]
    reader = GeminiReader(1)
    assert reader.feed(events[0]) is events[0]
    assert reader.usage is None
    assert reader.feed(events[1]) is events[1]


def test_the_last_of_several_candidates_is_the_end() -> None:
    first, second = (
        b"data: " + json.dumps(chunk({"text": "x"}, finish="STOP", index=index)).encode() + b"\n\n" for index in (0, 1)
    )
    reader = GeminiReader(2)
    assert reader.feed(first) is first
    assert reader.feed(second) == b""


def test_a_blocked_prompt_is_an_end() -> None:
    reader = GeminiReader(1)
    body = b'data: {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 7}}\n\n'
    assert reader.feed(body) == b""
    assert (reader.finish_reason, reader.usage) == ("SAFETY", Usage(7, 0))


def test_an_error_chunk_ends_the_stream() -> None:
    body = b'data: {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}\r\n\r\n'
    reader = GeminiReader(1)
    assert reader.feed(EVENTS[0] + body) == EVENTS[0]
    assert (reader.finished, reader.failed, reader.usage) == (True, True, None)
    assert reader.flush() == body


def test_usage_in_our_convention() -> None:
    audio = [{"modality": "TEXT", "tokenCount": 3}, {"modality": "AUDIO", "tokenCount": 60}]
    reported = {
        "promptTokenCount": 63,
        "toolUsePromptTokenCount": 7,
        "candidatesTokenCount": 10,
        "thoughtsTokenCount": 5,
        "cachedContentTokenCount": 20,
        "promptTokensDetails": audio,
        "candidatesTokensDetails": [{"modality": 4, "tokenCount": 8}],
    }
    assert usage_of(reported) == Usage(70, 15, 20, None, 5, input_audio_tokens=60, output_audio_tokens=8)
    assert usage_of({"candidatesTokenCount": 4}) == Usage(0, 4)
    assert usage_of({"totalTokenCount": 88}) == Usage(88, 0)
    assert usage_of({"promptTokenCount": "9", "totalTokenCount": -1}) is None


def test_whole_replies() -> None:
    for body in (json.dumps(CHUNKS[-1]).encode(), ARRAY):
        reader = GeminiReader(1)
        reader.whole(200, "application/json; charset=UTF-8", body)
        assert reader.usage == FINAL
    for body in (b"", b"{", b"3", b"\xff", b'{"usageMetadata":1}', b'{"candidates":[{"content":"x"}]}', b"[" * 9_999):
        reader = GeminiReader(1)
        reader.whole(200, "application/json", body)
        assert reader.usage is None


def test_an_image_is_not_counted_as_text() -> None:
    """Both when its event is held whole and when it is too large for that; the usage behind it is found."""
    for size in (100_000, 2 * MAX_HELD):
        image = chunk(
            {"inlineData": {"mimeType": "image/png", "data": "A" * size}}, finish="STOP", candidatesTokenCount=1290
        )
        body = b"data: " + json.dumps(image).encode() + b"\r\n\r\n"
        reader = GeminiReader(1)
        out = b"".join(reader.feed(body[at : at + 16_384]) for at in range(0, len(body), 16_384))
        assert out + reader.flush() == body
        assert reader.usage == Usage(9, 1290)
        assert reader.generated in (0, 1290)


# One JSON array.


def test_an_array_passes_as_it_comes_and_its_end_waits() -> None:
    reader = ArrayReader(1)
    last = b"\n,\r\n" + PRETTY[3]
    for piece in (
        b"[",
        PRETTY[0][:100],
        PRETTY[0][100:],
        b"\n,\r",
        b"\n" + PRETTY[1],
        b"\n,\r\n" + PRETTY[2],
        last[:-9],
    ):
        assert reader.feed(piece) is piece
    assert (reader.usage, reader.finished) == (None, False)
    assert reader.feed(last[-9:]) == b""
    assert (reader.usage, reader.finished) == (FINAL, False)
    assert reader.feed(b"\n]") == b""
    assert reader.finished
    assert reader.flush() == last[-9:] + b"\n]"


def test_an_array_reads_alike_however_it_is_cut_and_written() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for body in (ARRAY, json.dumps(CHUNKS).encode(), b" [\n]\n", b"[]"):
        whole = ArrayReader(1)
        assert whole.feed(body) + whole.flush() == body
        for _ in range(200):
            reader, at, out = ArrayReader(1), 0, b""
            while at < len(body):
                size = rng.choice((1, 2, 7, 40, 400))
                out += reader.feed(body[at : at + size])
                at += size
            assert out + reader.flush() == body
            assert (reader.usage, reader.generated, reader.finished) == (whole.usage, whole.generated, True)


def test_an_array_that_is_cut_is_valid_json_that_ends_with_an_error() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    end = {"content": NOTHING, "finishReason": "OTHER", "finishMessage": REFUSE.message, "index": 0}
    for stop in range(len(ARRAY) - len(b"}\n]")):
        reader = ArrayReader(1)
        middle = rng.randint(0, stop)
        out = reader.feed(ARRAY[:middle]) + reader.feed(ARRAY[middle:stop])
        *before, last = json.loads(out + reader.cut(REFUSE, "rid-1"))
        whole = [one for one in before if "error" not in one]
        assert (whole, out) == (CHUNKS[: len(whole)], ARRAY[:stop])
        assert len(before) - len(whole) <= 1
        for error in (*before[len(whole) :], last):
            assert error["error"]["llmguard"]["request_id"] == "rid-1"
            assert error["candidates"] == [end]


def test_an_array_cut_after_its_last_element_just_ends() -> None:
    for end in (b"", b"\n", b'\n,\r\n{"torn'):
        reader = ArrayReader(1)
        out = reader.feed(ARRAY.removesuffix(b"\n]") + end) + reader.cut(REFUSE, "rid-1")
        assert json.loads(out) == CHUNKS
    reader = ArrayReader(1)
    assert reader.feed(ARRAY) + reader.cut(REFUSE, "rid-1") == ARRAY


def test_an_element_too_large_to_hold_flows_on_and_can_be_cut() -> None:
    image = chunk({"inlineData": {"data": 'é\\"' * MAX_HELD}}, candidatesTokenCount=1290)
    body = b"[" + PRETTY[0] + b"\n,\r\n" + json.dumps(image).encode() + b"\n,\r\n" + PRETTY[3] + b"\n]"
    reader = ArrayReader(1)
    out = b"".join(reader.feed(body[at : at + 9_999]) for at in range(0, len(body), 9_999))
    assert len(out) > 2 * MAX_HELD
    assert out + reader.flush() == body
    assert reader.usage == FINAL
    for stop in range(3 * MAX_HELD, 3 * MAX_HELD + 20):
        reader = ArrayReader(1)
        out = reader.feed(body[:stop])
        assert len(out) > 2 * MAX_HELD
        first, torn, last = json.loads(out + reader.cut(REFUSE, "rid-1"))
        assert first == CHUNKS[0]
        assert "error" in torn
        assert last["error"]["code"] == 429


# The official SDK.


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    """Streams a body to the SDK: the text and the chunks that it gives, and the exception that ends it."""
    with upstream() as server:
        client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))

        def run(body: bytes) -> tuple[str, list[Any], errors.APIError]:
            server.reply(sse=body)
            text, chunks = "", []
            try:
                for one in client.models.generate_content_stream(model="m", contents="x"):
                    chunks.append(one)
                    text += one.candidates[0].content.parts[0].text or ""
            except errors.APIError as exc:
                return text, chunks, exc
            raise AssertionError("the SDK took the cut stream for a whole one")

        yield run
        client.close()


@pytest.mark.parametrize("events", range(len(EVENTS)))
def test_a_cut_stream_raises_the_refusal_in_the_sdk(sdk: Sdk, events: int) -> None:
    reader = GeminiReader(1)
    sent = b"".join(EVENTS[:events]) + EVENTS[events][:50]
    text, chunks, exc = sdk(reader.feed(sent) + reader.cut(REFUSE, "rid-1"))
    assert text == "".join(('Once {"a": [upon] \\ "', " a time, é\n\n", "", ".")[:events])
    assert [one.candidates[0].content.parts[0].text for one in chunks[events:]] == [""], "half a chunk, made empty"
    assert isinstance(exc, errors.ClientError)
    assert (exc.code, exc.status, exc.message) == (429, "RESOURCE_EXHAUSTED", REFUSE.message)
    assert exc.details["error"]["llmguard"]["request_id"] == "rid-1"
    assert exc.details["candidates"][0]["finishReason"] == "OTHER"


def test_a_stream_cut_after_its_last_chunk_just_ends() -> None:
    reader = GeminiReader(1)
    assert reader.feed(b"".join(EVENTS)) + reader.cut(REFUSE, "rid-1") == b"".join(EVENTS)


def test_an_event_too_large_to_hold_is_ended_before_the_error(sdk: Sdk) -> None:
    image = chunk({"inlineData": {"mimeType": "image/png", "data": "QUFB" * MAX_HELD}})
    body = b"data: " + json.dumps(image).encode()
    reader = GeminiReader(1)
    out = reader.feed(EVENTS[0]) + reader.feed(body[: 2 * MAX_HELD])
    assert len(out) > MAX_HELD
    _, chunks, exc = sdk(out + reader.cut(REFUSE, "rid-1"))
    assert len(chunks) == 2
    assert exc.code == 429
