"""The real OpenAI SDK reads streams that the guard has cut between two events (see test_cut_streams for the others)."""

import json

import openai
import pytest

from llmguard.core.decision import Refuse
from llmguard.providers.openai_chat import OpenAIChat
from llmguard.providers.openai_responses import OpenAIResponses
from tests.support.openai_stream import CHAT_EVENTS, RESPONSE_EVENTS, chunk, client, piece
from tests.support.openai_traffic import request

REFUSE = Refuse("budget_exceeded", 429, "The budget is spent.", rule="search", unit="usd", limit=10**9)
CHAT = OpenAIChat()
RESPONSES = OpenAIResponses()


def chat_reader(n: int = 1):
    body = json.dumps({"model": "gpt-4o-mini", "messages": [], "stream": True, "n": n}).encode()
    return CHAT.reader(CHAT.parse(request(body, ""), "/v1/chat/completions", None), asked_usage=False)


def responses_reader():
    body = json.dumps({"model": "gpt-5", "input": "Hi", "stream": True}).encode()
    return RESPONSES.reader(RESPONSES.parse(request(body, ""), "/v1/responses", None), asked_usage=False)


def chat(body: bytes) -> list[openai.types.chat.ChatCompletionChunk]:
    with client(body) as sdk:
        return list(sdk.chat.completions.create(model="m", messages=[], stream=True))


def test_the_whole_stream_passes() -> None:
    reader = chat_reader()
    body = b"".join(CHAT_EVENTS)
    chunks = chat(reader.feed(body) + reader.flush())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello wörld"
    assert chunks[-1].usage.prompt_tokens == 11


@pytest.mark.parametrize("begun", [b"", b"da", b"data: ", b": pi"])
def test_a_chat_stream_ends_cleanly(begun: bytes) -> None:
    for whole in range(4):
        reader = chat_reader()
        chunks = chat(reader.feed(b"".join(CHAT_EVENTS[:whole]) + begun) + reader.cut(REFUSE, "0198"))
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        assert text == ("", "", "Hello", "Hello wörld")[whole]
        assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
        last = chunks[-1]
        assert last.llmguard["code"] == "budget_exceeded"
        assert last.llmguard["limit"] == "1"
        assert last.id == ("chatcmpl-1" if whole else "chatcmpl-0198")
        assert last.model == ("gpt-4o-mini-x" if whole else "gpt-4o-mini")


def test_only_open_choices_are_ended() -> None:
    reader = chat_reader(n=3)
    body = chunk([piece("a")]) + chunk([piece("b", index=1)]) + chunk([piece(finish="stop", index=1)])
    chunks = chat(reader.feed(body) + reader.cut(REFUSE, "r"))
    assert {(c.index, c.finish_reason) for c in chunks[-1].choices} == {(0, "length"), (2, "length")}


def test_the_streaming_helper_says_that_the_length_was_reached() -> None:
    reader = chat_reader()
    body = reader.feed(b"".join(CHAT_EVENTS[:2])) + reader.cut(REFUSE, "r")
    with client(body) as sdk, sdk.chat.completions.stream(model="m", messages=[]) as stream:
        assert [e.type for e in stream][-1] == "content.done"
        with pytest.raises(openai.LengthFinishReasonError) as caught:
            stream.get_final_completion()
    choice = caught.value.completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hello", "length")


def test_text_completions_end_in_their_own_shape() -> None:
    body = b'{"model":"m","prompt":["a","b"],"stream":true}'
    call = CHAT.parse(request(body, ""), "/v1/completions", None)
    reader = CHAT.reader(call, asked_usage=False)
    first = (
        b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"Hi"}]}'
    )
    with client(reader.feed(first + b"\n\n") + reader.cut(REFUSE, "r")) as sdk:
        chunks = list(sdk.completions.create(model="m", prompt="a", stream=True))
    assert [c.choices[0].text for c in chunks] == ["Hi", ""]
    assert [(c.index, c.finish_reason) for c in chunks[-1].choices] == [(0, "length"), (1, "length")]


def test_an_event_too_large_to_hold_ends_as_an_error() -> None:
    reader = chat_reader()
    image = chunk([piece(images=[{"image_url": {"url": "data:image/png;base64," + "QUJD" * 100_000}}])])
    body = reader.feed(CHAT_EVENTS[0] + image[:300_000]) + reader.cut(REFUSE, "r")
    with pytest.raises(openai.APIError, match="The budget is spent") as caught:
        chat(body)
    assert caught.value.code == "budget_exceeded"
    assert caught.value.body["llmguard"]["rule"] == "search"


@pytest.mark.parametrize("begun", [b"", b"ev", b"event: resp", b"event: response.output_item.added\ndata: "])
def test_a_response_stream_ends_cleanly(begun: bytes) -> None:
    for whole in range(len(RESPONSE_EVENTS)):
        reader = responses_reader()
        cut = reader.feed(b"".join(RESPONSE_EVENTS[:whole]) + begun) + reader.cut(REFUSE, "0198")
        with client(cut) as sdk:
            events = list(sdk.responses.create(model="m", input="", stream=True))
        assert [e.sequence_number for e in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        last = events[-1]
        assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
        assert last.response.incomplete_details.reason == "max_output_tokens"
        assert last.response.id == ("resp_1" if whole else "resp_0198")
        assert last.llmguard["code"] == "budget_exceeded"


@pytest.mark.parametrize("whole", range(len(RESPONSE_EVENTS)))
def test_the_responses_helper_reads_a_cut_stream_to_its_end(whole: int) -> None:
    reader = responses_reader()
    body = reader.feed(b"".join(RESPONSE_EVENTS[:whole]) + b"event: respo") + reader.cut(REFUSE, "r")
    with client(body) as sdk, sdk.responses.stream(model="m", input="") as stream:
        events = list(stream)
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize("code", ["budget_exceeded", "budget_contended", "runaway_tripped", "quota_unavailable"])
def test_a_refusal_is_an_error_of_the_sdk(code: str) -> None:
    body = json.loads(CHAT.refusal(Refuse(code, 429, "No."), "0198"))
    error = body["error"]
    assert (error["code"], error["message"], error["param"]) == (code, "No.", None)
    assert error["llmguard"]["request_id"] == "0198"
    assert (error["type"] == "insufficient_quota") == (code == "budget_exceeded")
