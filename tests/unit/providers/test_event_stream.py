"""What every reader of event streams does with bytes, however they are cut."""

import json
import random
import re
from typing import Any

import pytest

from llmguard.core.decision import Refuse
from llmguard.providers.overlong import usage_in
from llmguard.providers.stream import MAX_HELD, Fate, SSEReader

REFUSE = Refuse("budget_exceeded", 429, "The budget is spent.")


class Letters(SSEReader):
    """A dialect of single words: `drop` is taken out, `hold` held back, `end` ends the stream.

    An event named `last` is known as terminal by its first line; what may be `drop` waits for its end.
    """

    TERMINAL = re.compile(rb"event: last")
    ERROR_NAME = b"event: error\n"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []
        self.late: dict[str, Any] | None = None

    def _event(self, data: bytes) -> Fate:
        data = data.rstrip(b"\r")
        self.seen.append(data)
        self.finished = self.finished or data == b'"end"'
        return {b'"drop"': Fate.DROP, b'"hold"': Fate.HOLD, b'"end"': Fate.HOLD}.get(data, Fate.PASS)

    def _reply(self, body: bytes) -> None:
        self.seen.append(body)

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        return b"data: ending\n\n"

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        return b'"error":"cut"'

    def _overlong(self, head: bytes) -> Fate:
        return Fate.HOLD if b'"last"' in head else Fate.PASS

    def _free(self, event: bytearray) -> int:
        return 0 if b'data: "drop"'.startswith(event.strip()[:12]) else super()._free(event)

    def _overlong_end(self, head: bytes, window: bytes) -> Fate:
        self.late = usage_in(window, self.USAGE_KEY)
        return Fate.PASS


class Plain(Letters):
    """Takes nothing out."""

    def _free(self, event: bytearray) -> int:
        return SSEReader._free(self, event)


def feed(reader: SSEReader, data: bytes, sizes: Any) -> bytes:
    out, at = b"", 0
    while at < len(data):
        size = sizes()
        out += reader.feed(data[at : at + size])
        at += size
    return out


EVENTS = [
    b": comment",
    b'data: {"a": "one"}',
    b'data: "drop"',
    b'event: two\ndata: {"b":\ndata: 2}',
    b'data: "drop"',
    b"id: 3",
    b"data:",
    b'data: {"c": 3}',
    b'data: "end"',
]
DATA = [b'{"a": "one"}', b'"drop"', b'{"b":\n2}', b'"drop"', b'{"c": 3}', b'"end"']


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("blank", [b"", b"\n"])
def test_cuts_change_nothing(newline: bytes, blank: bytes) -> None:
    blank = blank.replace(b"\n", newline)
    events = [event.replace(b"\n", newline) + 2 * newline + blank for event in EVENTS]
    stream = b"".join(events)
    expected = b"".join(blank if b"drop" in event else event for event in events)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for longest in (1, 2, 3, 5, 30, 1_000):
        for _ in range(20):
            reader = Letters()
            out = feed(reader, stream, lambda longest=longest: dice.randint(1, longest))
            assert reader.finished
            assert not out.endswith(events[-1])
            assert out + reader.flush() == expected
            assert reader.seen == DATA


def test_whole_events_go_out_as_the_object_that_came_in() -> None:
    reader = Letters()
    for chunk in (b'data: {"a":1}\n\n', b'data: {"a":1}\n\ndata: {"b":2}\n\n', b"data: {}\r\n\r\n", b": keep\n\n"):
        assert reader.feed(chunk) is chunk
    assert reader.seen == [b'{"a":1}', b'{"a":1}', b'{"b":2}', b"{}"]


def test_an_event_under_way_goes_out_in_the_pieces_in_which_it_comes() -> None:
    reader = Plain()
    for piece in (
        b"d",
        b"a",
        b'ta: {"a":1}\n\ndata: {"b"',
        b":",
        b"2}\n",
        b"\n",
        b": comm",
        b"ent\n\n",
        b"event: x\nd",
    ):
        assert reader.feed(piece) is piece
    assert reader.seen == [b'{"a":1}', b'{"b":2}']


def test_what_may_be_taken_out_waits_until_it_is_known() -> None:
    reader = Letters()
    assert reader.feed(b'data: "dr') == b""
    assert reader.feed(b"eam") == b'data: "dream'
    assert reader.feed(b'"\n\ndata: "drop') == b'"\n\n'
    assert reader.feed(b'"\n\n') == b""
    assert reader.flush() == b""


def test_a_terminal_event_is_held_from_where_it_is_known_for_one() -> None:
    reader = Letters()
    assert reader.feed(b"data: 1\n\nevent: l") == b"data: 1\n\nevent: l"
    assert reader.feed(b"ast\nda") == b""
    assert reader.feed(b'ta: "end"\n\n') == b""
    assert (reader.finished, reader.flush()) == (True, b'ast\ndata: "end"\n\n')


def test_a_terminal_event_known_by_its_data_is_held_from_its_last_piece() -> None:
    reader = Letters()
    assert reader.feed(b'data: "en') == b'data: "en'
    assert reader.feed(b'd"\n') == b'd"\n'
    assert reader.feed(b"\ndata: more") == b""
    assert (reader.finished, reader.flush()) == (True, b"\ndata: more")


def test_everything_after_a_held_event_is_held_too() -> None:
    reader = Letters()
    assert reader.feed(b'data: 1\n\ndata: "hold"\n\ndata: 2\n\n') == b"data: 1\n\n"
    assert reader.feed(b'data: {"x":1}\n\n') == b""
    assert not reader.finished
    assert reader.flush() == b'data: "hold"\n\ndata: 2\n\ndata: {"x":1}\n\n'
    assert reader.feed(b"data: late\n\n") == b"data: late\n\n"


def test_a_torn_tail_comes_out_at_the_end() -> None:
    reader = Letters()
    assert reader.feed(b"data: 1\n\nevent: last\ndata: tor") == b"data: 1\n\n"
    assert reader.flush() == b"event: last\ndata: tor"


ENDING = b"data: ending\n\n"
ERROR_END = b',"error":"cut"}\nevent: error\n\n' + ENDING


@pytest.mark.parametrize(
    ("torn", "end"),
    [
        (b'data: {"half": "', b'"' + ERROR_END),
        (b'data: {"half": 1', ERROR_END),
        (b'event: x\ndata: {"half": tr', b"ue" + ERROR_END),
        (b'data: {"a":\n', b"data: null" + ERROR_END),
        (b'data: {"a": 1\r\ndat', b"\ndata: " + ERROR_END),
        (b'data: {"a": 1\ndata', b"\ndata: " + ERROR_END),
        (b'data: {"a": 1}', b"\n\n" + ENDING),
        (b'data: {"a": 1}\n', b"\n\n" + ENDING),
        (b"data: what", b"\n\n" + ENDING),
        (b"", ENDING),
        (b"dat", ENDING[3:]),
        (b"data: ", ENDING[6:]),
        (b"id: 7\ndata:", ENDING[5:]),
        (b"event: some", b"\n" + ENDING),
        (b"event: some\r\n", ENDING),
        (b"event: some\r", ENDING),
        (b": comm", b"\n" + ENDING),
    ],
)
def test_cut_makes_an_error_of_the_event_under_way(torn: bytes, end: bytes) -> None:
    reader = Plain()
    assert reader.feed(b"data: 1\n\n" + torn) == b"data: 1\n\n" + torn
    assert reader.cut(REFUSE, "r") == end


def test_cut_drops_an_event_of_which_nothing_is_out() -> None:
    for torn in (b'data: "dro', b'event: last\ndata: {"a'):
        reader = Letters()
        assert reader.feed(b"data: 1\n\n" + torn) + reader.cut(REFUSE, "r") == b"data: 1\n\n" + ENDING


def test_cut_in_the_name_of_a_terminal_event_gives_it_another() -> None:
    reader = Letters()
    out = reader.feed(b"event: la") + reader.feed(b"st\nda") + reader.cut(REFUSE, "r")
    assert out == b"event: la\n" + ENDING


def test_cut_lets_a_stream_end_that_has_ended() -> None:
    reader = Letters()
    out = reader.feed(b'data: 1\n\ndata: "end"\n\n') + reader.cut(REFUSE, "r")
    assert out == b'data: 1\n\ndata: "end"\n\n'
    for held in (b'data: "hold"\n\n', b'data: "hold"\n\ndata: {"to'):
        reader = Letters()
        assert reader.feed(held) + reader.cut(REFUSE, "r") == b'data: "hold"\n\n'
    reader = Letters()
    out = reader.feed(b'data: "end"') + reader.cut(REFUSE, "r")
    assert (out, reader.finished) == (b'data: "end"\n\n', True)


def large(first: str, end: str = '","usage":{"tokens":3,"parts":{"x":1}},"z":0}') -> bytes:
    return f'data: {{"{first}":"'.encode() + b"QUJD" * 100_000 + end.encode() + b"\n\n"


@pytest.mark.parametrize("size", [999, 65_536, 10**7])
def test_a_large_event_flows_and_its_usage_is_found(size: int) -> None:
    stream = b"data: 1\n\n" + large("image") + b'data: "drop"\n\ndata: "end"\n\n'
    reader = Letters()
    out = b""
    for at in range(0, len(stream), size):
        out += reader.feed(stream[at : at + size])
        assert len(reader._tail) + len(reader._back) <= MAX_HELD + size
    assert reader.finished
    assert out + reader.flush() == stream.replace(b'data: "drop"\n\n', b"")
    if size < 10**7:
        assert reader.late == {"tokens": 3, "parts": {"x": 1}}


def test_of_a_large_terminal_event_only_the_last_bytes_are_held() -> None:
    reader = Letters()
    stream = b"event: last\n" + large("last")
    out = feed(reader, stream, lambda: 50_000)
    held = reader.flush()
    assert out + held == stream
    assert len(held) == MAX_HELD
    assert reader.late == {"tokens": 3, "parts": {"x": 1}}


TAIL = '\\u00e9\\ud83d\\ude00 é漢字😀\\\\","list":[1,-2.5,true,{"a":null}],"z":"end"}'


def test_a_large_event_cut_in_its_middle_becomes_an_error() -> None:
    stream = large("image", TAIL)
    start = len(stream) - len(TAIL.encode()) - 2
    for at in range(start, len(stream) - 2):
        reader = Letters()
        out = reader.feed(stream[:at]) + reader.cut(REFUSE, "r")
        event, *rest = out.split(b"\n\n")
        doc = json.loads(event.removeprefix(b"data: ").removesuffix(b"\nevent: error"))
        assert (doc["error"], rest) == ("cut", [b"data: ending", b""]), at
        assert doc["image"].startswith("QUJDQUJD")


def test_a_large_event_cut_after_its_object_is_whole() -> None:
    reader = Letters()
    stream = large("image")
    out = reader.feed(stream[:-1]) + reader.cut(REFUSE, "r")
    event, ending, _ = out.split(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["z"] == 0
    assert ending.strip() == b"data: ending"


@pytest.mark.parametrize("body", [b'{"a":1}\n{"b":2}\n', b'[{"a":1},\n{"b":2}]', b' \n{"a":1}\n'])
def test_what_is_no_event_stream_flows_through(body: bytes) -> None:
    for size in (1, 4, 100):
        reader = Letters()
        out = feed(reader, body, lambda size=size: size)
        assert out + reader.flush() == body
    assert reader.seen == []


def test_a_stream_of_json_lines_is_cut_with_an_error_line() -> None:
    reader = Letters()
    out = reader.feed(b'{"a":1}\n{"b":') + reader.cut(REFUSE, "r")
    assert json.loads(out.splitlines()[-1]) == {"error": "cut"}


def test_a_whole_reply_may_be_an_event_stream() -> None:
    reader = Letters()
    reader.whole(200, "text/event-stream; charset=utf-8", b'data: {"a":1}\n\ndata: "end"\n\n')
    assert reader.seen == [b'{"a":1}', b'"end"']
    reader = Letters()
    reader.whole(200, "application/json", b'data: {"mislabelled":1}\n\n')
    assert reader.seen == [b'{"mislabelled":1}']
    reader = Letters()
    reader.whole(200, "application/json", b"{}")
    reader.whole(500, "application/json", b'{"error":1}')
    assert reader.seen == [b"{}"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("Hello", 1), ("a" * 40, 10), ("漢字漢字", 4), ("Привет, мир", 6), ("it’s " * 8, 16), ("😀", 1)],
)
def test_text_is_estimated_by_its_kind(text: str, tokens: int) -> None:
    reader = Letters()
    reader._text(text)
    assert reader.generated == tokens


def test_a_piece_is_a_token_at_least() -> None:
    reader = Letters()
    for _ in range(10):
        reader._text("a")
    assert reader.generated == 10
    reader._text('{"a":' * 20, 2)
    assert reader.generated == 52
