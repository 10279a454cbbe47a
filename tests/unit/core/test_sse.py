"""Where events end, what they say, how they are written."""

import pytest

from llmguard.core import sse

ENDS = [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\r\n\r"]


@pytest.mark.parametrize("end", ENDS)
def test_every_blank_line_ends_an_event(end: bytes) -> None:
    block = b"data: 1" + end + b"data: 2"
    at = len(block) - len(b"data: 2")
    assert sse.first_end(block) == at
    assert sse.last_end(block) == at
    assert sse.split(b"data: 1" + end) == [b"data: 1" + end]


@pytest.mark.parametrize("block", [b"", b"data: 1", b"data: 1\n", b"data: 1\r\n", b"data: 1\r\nid: 2\r\n", b"a\rb\r"])
def test_a_line_end_alone_ends_no_event(block: bytes) -> None:
    assert sse.first_end(block) == 0
    assert sse.last_end(block) == 0


def test_first_and_last_end_differ_where_there_are_several_events() -> None:
    block = b"data: 1\n\ndata: 2\n\ndata: 3"
    assert (sse.first_end(block), sse.last_end(block)) == (9, 18)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\n\n", b"{}"),
        (b"data:  x\n\n", b" x"),
        (b"event: ping\ndata: 1\ndata: 2\n\n", b"1\n2"),
        (b": comment\r\ndata: a\r\n\r\n", b"a"),
        (b"data\r\r", b""),
        (b"\xef\xbb\xbfdata: first\n\n", b"first"),
        (b"\ndata: after a stray line end\n\n", b"after a stray line end"),
        (b"id: 7\nretry: 1\ndatum: no\n\n", b""),
    ],
)
def test_data_is_read_as_the_standard_says(event: bytes, data: bytes) -> None:
    assert sse.data(event) == data


def test_render_writes_what_data_reads() -> None:
    assert sse.render(b"{}") == b"data: {}\n\n"
    assert sse.render(b"{}", b"error") == b"event: error\ndata: {}\n\n"


def test_a_third_line_end_is_kept() -> None:
    assert sse.split(b"data: 1\n\n\n") == [b"data: 1\n\n", b"\n"]
    assert sse.split(b"data: 1\n\n\n\ndata: 2\n\n") == [b"data: 1\n\n", b"\n\n", b"data: 2\n\n"]


def test_the_data_of_every_event_of_a_block() -> None:
    block = b": hi\n\ndata: 1\n\n\ndata:\n\nevent: x\ndata: 2\ndata: 3\n\nid: 1\ndata:4\n\n"
    assert sse.every_data(block) == [b"", b"1", b"", b"2\n3", b"4"]
    assert sse.every_data(block.replace(b"\n", b"\r\n")) == sse.every_data(block)
    assert sse.every_data(block.replace(b"\n", b"\r")) == sse.every_data(block)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_an_event_has_data_before_it_is_whole(newline: bytes) -> None:
    for torn, data in ((b"data: a", b"a"), (b"data: a\n", b"a"), (b"data: a\ndata", b"a\n"), (b"dat", b""), (b"", b"")):
        assert sse.data(torn.replace(b"\n", newline)) == data


@pytest.mark.parametrize(
    "torn", [b"", b"d", b"data: ", b"data:", b": c", b"event: other", b"event: other\r\n", b"id: 1\r", b"id: 1\ndata"]
)
def test_a_torn_event_without_data_becomes_another(torn: bytes) -> None:
    for event in (b"data: new\n\n", b"event: new\ndata: new\n\n"):
        (mended,) = sse.split(torn + sse.instead(torn, event))
        assert sse.data(mended).strip() == b"new"
        names = [line for line in mended.splitlines() if line.startswith(b"event: ")]
        assert names[-1:] == [b"event: new"] or b"event" not in event


@pytest.mark.parametrize(
    ("torn", "data"),
    [
        (b"data: 1", b"12"),
        (b"data:1", b"12"),
        (b"data: 1\n", b"1\n2"),
        (b"data: 1\r\nid", b"1\n2"),
        (b"data: 1\ndat", b"1\n2"),
        (b"\xef\xbb\xbfdata: 1", b"12"),
    ],
)
def test_a_torn_event_goes_on(torn: bytes, data: bytes) -> None:
    assert sse.data(torn + sse.before_data(torn) + b"2\n\n") == data
