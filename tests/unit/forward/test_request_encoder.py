"""Request heads: what is written, and that nothing can be smuggled into one."""

from __future__ import annotations

import pytest

from llmguard.forward.http1 import RequestEncoder

ENCODER = RequestEncoder("api.example.com")


def test_head_with_body() -> None:
    head = ENCODER.head("POST", b"/v1/x?y=1", [(b"accept", b"*/*"), (b"X-Twice", b"1"), (b"X-Twice", b"")], 12)
    assert head == (
        b"POST /v1/x?y=1 HTTP/1.1\r\nhost: api.example.com\r\n"
        b"accept: */*\r\nX-Twice: 1\r\nX-Twice: \r\ncontent-length: 12\r\n\r\n"
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_empty_body_is_announced_where_one_is_expected(method: str) -> None:
    assert ENCODER.head(method, b"/", [], 0) == (
        b"%b / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 0\r\n\r\n" % method.encode()
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_no_body_no_length(method: str) -> None:
    assert ENCODER.head(method, b"/", [], 0) == b"%b / HTTP/1.1\r\nhost: api.example.com\r\n\r\n" % method.encode()
    assert ENCODER.head(method, b"/", [], 3).endswith(b"\r\ncontent-length: 3\r\n\r\n")


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "post", "GET /x HTTP/1.1\r\nx:", ""])
def test_method_is_one_of_a_few(method: str) -> None:
    with pytest.raises(ValueError, match="is not forwarded"):
        ENCODER.head(method, b"/", [], 0)


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"v1",
        b"http://other/",
        b"/a b",
        b"/a\r\nx: y",
        b"/a\n",
        b"/a\tb",
        b"/a\0",
        b"/a#b",
        b"/\xc3\xa9",
        b"/\x7f",
    ],
)
def test_target_is_in_origin_form(target: bytes) -> None:
    with pytest.raises(ValueError, match="request target"):
        ENCODER.head("GET", target, [], 0)


@pytest.mark.parametrize("value", [b"\r\n", b"a\r\nb: c", b"a\nb", b"a\rb", b"\0", b"a\0b", b"\n"])
@pytest.mark.parametrize("before", [[], [(b"a", b"b")]])
def test_value_without_line_breaks_and_nul(value: bytes, before: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match="line break or NUL"):
        ENCODER.head("POST", b"/", [*before, (b"x", value), *before], 0)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"a\0", b"\xc3\xa9", b"(a)", b"a\t"])
def test_name_is_a_token(name: bytes) -> None:
    with pytest.raises(ValueError, match="not a token"):
        ENCODER.head("POST", b"/", [(name, b"x")], 0)


@pytest.mark.parametrize(
    "name", [b"Host", b"content-length", b"Transfer-Encoding", b"connection", b"TE", b"expect", b"Upgrade"]
)
def test_framing_is_the_engines_own(name: bytes) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="written by the engine"):
            ENCODER.head("POST", b"/", [(name, b"x")], 0)


def test_memory_of_names_is_bounded() -> None:
    encoder = RequestEncoder("x")
    for i in range(3000):
        encoder.head("GET", b"/", [(b"x-%d" % i, b"")], 0)
    assert len(encoder._known) == 1024
    assert encoder.head("GET", b"/", [(b"x-2999", b"1")], 0).endswith(b"x-2999: 1\r\n\r\n")
