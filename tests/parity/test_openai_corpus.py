"""Recorded traffic of everybody who speaks OpenAI's dialects: usage to the token, bytes to the byte."""

import json
import random
from collections import Counter

import pytest

from llmguard.core.call import Call
from llmguard.core.ports import Dialect, Reader
from llmguard.errors import BadCall
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_embeddings import OpenAIEmbeddings
from llmguard.providers.openai_responses import OpenAIResponses
from tests.support.openai_traffic import ENDPOINTS, Recording, differences, recordings, request
from tests.support.pieces import first_late_piece, terminal_start

DIALECTS: dict[str, Dialect] = {
    "chat.completions": OpenAIChat(),
    "completions": OpenAIChat(),
    "responses": OpenAIResponses(),
    "embeddings": OpenAIEmbeddings(),
}
REFUSALS = Counter(
    {
        # A response that ends after its call cannot be settled.
        ("responses", "background"): 8,
        # A stored prompt that names the model: what is not named cannot be priced.
        ("responses", "model"): 4,
        # Recorded in front of a gateway that adds the model.
        ("completions", "model"): 2,
        # A router would pick a model that was never priced.
        ("chat.completions", "models"): 2,
        ("chat.completions", "preset"): 1,
    }
)


def parse(recording: Recording) -> Call:
    path = ENDPOINTS[recording.op]
    assert recording.request is not None
    return DIALECTS[recording.op].parse(request(recording.request, path), path, recording.model)


def call_of(recording: Recording) -> Call:
    """The recorded call, or a plain one where it is missing or refused."""
    if recording.request is not None:
        try:
            return parse(recording)
        except BadCall:
            pass
    path = ENDPOINTS[recording.op]
    body = json.dumps({"model": "m", "stream": recording.stream}).encode()
    return DIALECTS[recording.op].parse(request(body, path), path, None)


def reader_of(recording: Recording, *, asked: bool = False) -> Reader:
    return DIALECTS[recording.op].reader(call_of(recording), asked_usage=asked)


def streams() -> list[Recording]:
    return [recording for recording in recordings() if recording.stream]


def wrong(recording: Recording, reader: Reader) -> list[str]:
    if recording.usage is None:
        return [] if reader.usage is None else ["usage that was not reported"]
    return differences(reader.usage, recording.usage, recording.tags)


def test_there_is_traffic() -> None:
    ops = Counter(recording.op for recording in recordings())
    assert ops["chat.completions"] > 2_400
    assert ops["responses"] > 1_000
    assert ops["embeddings"] > 150
    assert len(streams()) > 990


def test_every_request_is_understood_or_refused_for_a_reason() -> None:
    refused: Counter[tuple[str, str | None]] = Counter()
    for recording in recordings():
        if recording.request is None:
            continue
        try:
            call = parse(recording)
        except BadCall as error:
            refused[recording.op, error.param] += 1
            continue
        dialect = DIALECTS[recording.op]
        assert 0 <= call.prompt_bytes <= len(call.body)
        dialect.texts(call)
        dialect.overhead_tokens(call)
    assert refused == REFUSALS


SYSTEM_PROMPTS_OF_THEIR_OWN = {"venice"}
CONTRADICTORY = {"7238f3c8b97eaeb9"}  # answers with a call of a tool that its recorded request does not have


def test_a_prompt_costs_no_more_than_its_upper_bound() -> None:
    over = []
    for recording in recordings():
        if recording.request is None or recording.usage is None or recording.provider in SYSTEM_PROMPTS_OF_THEIR_OWN:
            continue
        try:
            call = parse(recording)
        except BadCall:
            continue
        bound = call.prompt_bytes + call.extra_input_tokens
        if recording.usage["input_tokens"] > bound and not call.server_context:
            over.append(recording.id)
    assert set(over) == CONTRADICTORY


def test_whole_replies_report_their_usage() -> None:
    failures = []
    for recording in recordings():
        if not recording.stream:
            reader = reader_of(recording)
            reader.whole(recording.status, "application/json", recording.body)
            if found := wrong(recording, reader):
                failures.append((recording.id, recording.provider, found))
    assert failures == []


def test_streams_report_their_usage_and_pass_byte_for_byte() -> None:
    failures = []
    for recording in streams():
        reader = reader_of(recording)
        out = reader.feed(recording.body)
        if out + reader.flush() != recording.body:
            failures.append((recording.id, recording.provider, ["bytes"]))
        if found := wrong(recording, reader):
            failures.append((recording.id, recording.provider, found))
    assert failures == []


def seen(reader: Reader) -> tuple[object, ...]:
    found = (reader.usage, reader.model, reader.finish_reason, reader.generated)
    return (*found, reader.finished, reader.failed, reader.created)


@pytest.mark.parametrize("longest", [1, 40, 1_500])
def test_cuts_change_nothing(longest: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for recording in dice.sample(streams(), 40 if longest == 1 else 150):
        at_once, cut = reader_of(recording), reader_of(recording)
        body, out, at = recording.body, b"", 0
        at_once.feed(body)
        while at < len(body):
            size = dice.randint(1, longest)
            out += cut.feed(body[at : at + size])
            at += size
        assert out + cut.flush() == body, recording.id
        assert seen(cut) == seen(at_once), recording.id


def test_pieces_pass_as_they_arrive_up_to_the_terminal_event() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    late = {}
    for recording in streams():
        body = recording.body
        until = terminal_start(reader_of(recording), body)
        if found := first_late_piece(reader_of(recording), body, dice, until):
            late[recording.id, recording.provider] = found
    assert late == {}


def test_chunks_with_choices_pass_as_they_arrive_where_the_guard_asked_for_usage() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for recording in dice.sample([one for one in streams() if one.op == "chat.completions"], 200):
        reader = reader_of(recording, asked=True)
        for event in recording.body.split(b"\n\n"):
            choices = event.find(b'"choices":[{') + len(b'"choices":[{')
            if b'"error"' in event:
                break
            if not event.startswith(b"data: {") or not 12 < choices < len(event):
                reader.feed(event + b"\n\n")
                continue
            known = dice.randrange(choices, len(event))
            first, second = event[:known], event[known:] + b"\n\n"
            assert (reader.feed(first), reader.feed(second)) == (first, second), (recording.id, first)


def test_only_the_usage_chunk_is_taken_out_where_the_guard_asked_for_it() -> None:
    taken = 0
    for recording in streams():
        reader = reader_of(recording, asked=True)
        out = reader.feed(recording.body) + reader.flush()
        expected = recording.body
        if recording.op in ("chat.completions", "completions"):
            events = recording.body.split(b"\n\n")
            expected = b"\n\n".join(event for event in events if not usage_only(event))
            taken += out != recording.body
        assert out == expected, recording.id
        assert wrong(recording, reader) == [], recording.id
    assert taken > 250


def usage_only(event: bytes) -> bool:
    data = event.removeprefix(b"data:").strip()
    if not data.startswith(b"{"):
        return False
    doc = json.loads(data)
    return doc.get("choices") == [] and bool(doc.get("usage")) and not doc.get("error")


def test_almost_every_stream_is_seen_to_end() -> None:
    """The rest have no end marker, or lost its blank line when they were recorded."""
    unfinished = [recording for recording in streams() if not _finishes(recording)]
    assert len(unfinished) < 30
    for recording in unfinished:
        assert "no_done_marker" in recording.tags or not recording.body.endswith(b"\n\n"), recording.id


def _finishes(recording: Recording) -> bool:
    reader = reader_of(recording)
    reader.feed(recording.body)
    return reader.finished
