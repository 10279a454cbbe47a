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
