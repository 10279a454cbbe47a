"""Replies, correct and broken: each must give the same answer however its bytes are cut.

Rules are those of RFC 9112 (sections in the vectors' names where one applies), read as strictly as a client may.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from llmguard.forward.http1 import MAX_HEAD_BYTES, MAX_HEADERS, ResponseFramer


@dataclass(frozen=True)
class Answer:
    """What a reply is found to be. ``fault`` is a part of the framer's words, ``None`` for a correct reply."""

    status: int = 200
    body: bytes = b""
    reusable: bool = True
    fault: str | None = None


@dataclass(frozen=True)
class Vector:
    name: str
    wire: bytes
    answer: Answer
    method: str = "POST"
    eof: bool = False


def http(*lines: str, body: bytes = b"", first: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1") + body


CHUNKED = "Transfer-Encoding: chunked"
OK = Answer(body=b"hello")
CLOSING = Answer(body=b"hello", reusable=False)


def broken(fault: str, *, status: int = 0, body: bytes = b"") -> Answer:
    return Answer(status, body, reusable=False, fault=fault)


CORRECT = [
    Vector("length", http("Content-Length: 5", body=b"hello"), OK),
    Vector("length zero", http("Content-Length: 0"), Answer()),
    Vector("length with blanks around it", http("Content-Length: \t 5 \t ", body=b"hello"), OK),
    Vector("length with leading zeros", http("Content-Length: 005", body=b"hello"), OK),
    Vector("no reason phrase", http("Content-Length: 5", body=b"hello", first="HTTP/1.1 200 "), OK),
    Vector("no reason phrase nor blank", http("Content-Length: 5", body=b"hello", first="HTTP/1.1 200"), OK),
    Vector("any case of names", http("cOnTeNt-LeNgTh: 5", body=b"hello"), OK),
    Vector("bytes above 127 in a value", http("X: caf\xe9", "Content-Length: 5", body=b"hello"), OK),
    Vector("empty value", http("X:", "Content-Length: 5", body=b"hello"), OK),
    Vector("529", http("Content-Length: 0", first="HTTP/1.1 529 Overloaded"), Answer(529)),
    Vector("connection: close", http("Connection: close", "Content-Length: 5", body=b"hello"), CLOSING),
    Vector("connection: a list", http("Connection: x, Close", "Content-Length: 5", body=b"hello"), CLOSING),
    Vector("1.0 with length", http("Content-Length: 5", body=b"hello", first="HTTP/1.0 200 OK"), CLOSING),
    Vector(
        "1.0 kept alive",
        http("Connection: keep-alive", "Content-Length: 5", body=b"hello", first="HTTP/1.0 200 OK"),
        OK,
    ),
    Vector("6.3 until the end", http(body=b"hello"), CLOSING, eof=True),
    Vector("6.3 until the end, empty", http(), Answer(reusable=False), eof=True),
    Vector("6.3 until the end, 1.0", http(body=b"hello", first="HTTP/1.0 200 OK"), CLOSING, eof=True),
    Vector("7.1 chunked", http(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"), OK),
    Vector("7.1 chunked, many", http(CHUNKED, body=b"1\r\nh\r\n2\r\nel\r\n2\r\nlo\r\n0\r\n\r\n"), OK),
    Vector("7.1 chunked, empty", http(CHUNKED, body=b"0\r\n\r\n"), Answer()),
    Vector(
        "7.1 chunked, zeros and capitals",
        http(CHUNKED, body=b"0000A\r\nhellohello\r\n000\r\n\r\n"),
        Answer(200, b"hello" * 2),
    ),
    Vector("7.1 chunked in capitals", http("TRANSFER-ENCODING: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), OK),
    Vector("7.1.1 extensions", http(CHUNKED, body=b'5;a=b;c="d;\\"e"\r\nhello\r\n0;z\r\n\r\n'), OK),
    Vector("7.1.2 trailers", http(CHUNKED, body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"), CLOSING),
    Vector(
        "7.1.2 trailers posing as framing",
        http(CHUNKED, body=b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n"),
        CLOSING,
    ),
    Vector("close and chunked", http("Connection: close", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"), CLOSING),
    Vector("100", http(first="HTTP/1.1 100 Continue") + http("Content-Length: 5", body=b"hello"), OK),
    Vector(
        "102, 103, 103",
        http(first="HTTP/1.1 102 Processing")
        + http("Link: </x>", "Content-Type: text/event-stream", first="HTTP/1.1 103 Early Hints")
        + http("Link: </y>", first="HTTP/1.1 103 Early Hints")
        + http("Content-Length: 5", body=b"hello"),
        OK,
    ),
    Vector("204", http(first="HTTP/1.1 204 No Content"), Answer(204)),
    Vector("204 with a length", http("Content-Length: 0", first="HTTP/1.1 204 No Content"), Answer(204)),
    Vector("304 with its length", http("Content-Length: 5", first="HTTP/1.1 304 Not Modified"), Answer(304)),
    Vector("304 chunked", http(CHUNKED, first="HTTP/1.1 304 Not Modified"), Answer(304)),
    Vector("head with a length", http("Content-Length: 5"), Answer(reusable=False), method="HEAD"),
    Vector("head chunked", http(CHUNKED), Answer(reusable=False), method="HEAD"),
    Vector("head without anything", http(), Answer(reusable=False), method="HEAD"),
    Vector(
        "upgrade offered, not made", http("Upgrade: h2", "Connection: upgrade", "Content-Length: 5", body=b"hello"), OK
    ),
]

EXCESS = [
    Vector(
        "a second reply", http("Content-Length: 5", body=b"hello") + http("Content-Length: 4", body=b"evil"), CLOSING
    ),
    Vector(
        "a second reply, chunked",
        http(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n") + http(CHUNKED, body=b"4\r\nevil\r\n0\r\n\r\n"),
        CLOSING,
    ),
    Vector("the first byte of a second reply", http("Content-Length: 5", body=b"helloH"), CLOSING),
    Vector(
        "an interim reply afterwards",
        http("Content-Length: 5", body=b"hello") + http(first="HTTP/1.1 100 Continue"),
        CLOSING,
    ),
    Vector("more than the length", http("Content-Length: 5", body=b"helloevil"), CLOSING),
    Vector("more than the last chunk", http(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\nevil"), CLOSING),
    Vector("more after close", http("Connection: close", "Content-Length: 5", body=b"helloevil"), CLOSING),
    Vector(
        "a body for 204",
        http("Content-Length: 4", first="HTTP/1.1 204 No Content", body=b"evil"),
        Answer(204, reusable=False),
    ),
    Vector(
        "a body for 304",
        http("Content-Length: 4", first="HTTP/1.1 304 Not Modified", body=b"evil"),
        Answer(304, reusable=False),
    ),
    Vector("a body for head", http("Content-Length: 4", body=b"evil"), Answer(reusable=False), method="HEAD"),
    Vector(
        "a chunked body for head", http(CHUNKED, body=b"4\r\nevil\r\n0\r\n\r\n"), Answer(reusable=False), method="HEAD"
    ),
]

BROKEN = [
    Vector(
        "6.3 both framings",
        http(CHUNKED, "Content-Length: 5", body=b"5\r\nhello\r\n0\r\n\r\n"),
        broken("Content-Length"),
    ),
    Vector(
        "6.3 both framings, swapped", http("Content-Length: 5", CHUNKED, body=b"hello"), broken("Transfer-Encoding")
    ),
    Vector("6.3 two lengths", http("Content-Length: 5", "Content-Length: 4", body=b"hello"), broken("Content-Length")),
    Vector(
        "6.3 the same length twice",
        http("Content-Length: 5", "Content-Length: 5", body=b"hello"),
        broken("Content-Length"),
    ),
    Vector("6.3 a list of lengths", http("Content-Length: 5, 5", body=b"hello"), broken("Content-Length")),
    Vector("length with a sign", http("Content-Length: +5", body=b"hello"), broken("Content-Length")),
    Vector("length below zero", http("Content-Length: -5", body=b"hello"), broken("Content-Length")),
    Vector("length in hex", http("Content-Length: 0x5", body=b"hello"), broken("Content-Length")),
    Vector("length empty", http("Content-Length:", body=b"hello"), broken("Content-Length")),
    Vector("length beyond 64 bits", http("Content-Length: 18446744073709551616"), broken("Content-Length")),
    Vector("length of 5000 zeros", http("Content-Length: " + "0" * 5000), broken("Content-Length")),
    Vector(
        "coding that is not ours",
        http("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        broken("transfer coding"),
    ),
    Vector(
        "coding after chunked", http("Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), broken("transfer coding")
    ),
    Vector("coding named alike", http("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), broken("transfer coding")),
    Vector("coding identity", http("Transfer-Encoding: identity", body=b"hello"), broken("transfer coding")),
    Vector("coding empty", http("Transfer-Encoding: ", body=b"hello"), broken("Transfer-Encoding")),
    Vector("coding twice", http(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), broken("two Transfer-Encoding")),
    Vector("coding in 1.0", http(CHUNKED, body=b"0\r\n\r\n", first="HTTP/1.0 200 OK"), broken("transfer coding")),
    Vector("2.2 bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", broken("Missing expected CR")),
    Vector("2.2 bare LF in the head", http("X: y\nContent-Length: 0"), broken("Missing expected CR")),
    Vector("2.2 bare CR in a value", http("X: y\rz", "Content-Length: 0"), broken("")),
    Vector("5.1 blank before the colon", http("X : y", "Content-Length: 0"), broken("Invalid header token")),
    Vector("5.2 folded line", http("X: y", " z", "Content-Length: 0"), broken("")),
    Vector("5.2 folded empty line", http("X:", "\tz", "Content-Length: 0"), broken("")),
    Vector("name with a blank", http("X Y: z", "Content-Length: 0"), broken("Invalid header token")),
    Vector("no name", http(": z", "Content-Length: 0"), broken("Invalid header token")),
    Vector("no colon", http("nonsense", "Content-Length: 0"), broken("")),
    Vector("NUL in a value", http("X: y\0z", "Content-Length: 0"), broken("Invalid header value char")),
    Vector("control character in a value", http("X: y\x01z", "Content-Length: 0"), broken("Invalid header value char")),
    Vector("4 blank lines in front", b"\r\n\r\n" + http("Content-Length: 0"), broken("does not begin with HTTP/")),
    Vector("not HTTP", b"SSH-2.0-OpenSSH_9.9\r\n", broken("does not begin with HTTP/")),
    Vector("nearly HTTP", b"HTTQ/1.1 200 OK\r\n\r\n", broken("Expected HTTP/")),
    Vector("RTSP", http("Content-Length: 0", first="RTSP/1.0 200 OK"), broken("does not begin with HTTP/")),
    Vector("ICE", http("Content-Length: 0", first="ICE/1.0 200 OK"), broken("does not begin with HTTP/")),
    Vector("HTTP/0.9", http("Content-Length: 0", first="HTTP/0.9 200 OK"), broken("is HTTP/0.9")),
    Vector("HTTP/2.0", http("Content-Length: 0", first="HTTP/2.0 200 OK"), broken("is HTTP/2.0")),
    Vector("HTTP/1.2", http("Content-Length: 0", first="HTTP/1.2 200 OK"), broken("Invalid HTTP version")),
    Vector("two digits", http("Content-Length: 0", first="HTTP/1.1 20 OK"), broken("Invalid status code")),
    Vector("four digits", http("Content-Length: 0", first="HTTP/1.1 2000 OK"), broken("Invalid response status")),
    Vector("status 099", http("Content-Length: 0", first="HTTP/1.1 099 X"), broken("status 99")),
    Vector("status 600", http("Content-Length: 0", first="HTTP/1.1 600 X"), broken("status 600")),
    Vector("two blanks", http("Content-Length: 0", first="HTTP/1.1  200 OK"), broken("Invalid status code")),
    Vector(
        "101",
        http("Upgrade: websocket", "Connection: upgrade", first="HTTP/1.1 101 Switching") + b"\x81\x00",
        broken("status 101"),
    ),
    Vector("101 without upgrade", http(first="HTTP/1.1 101 Switching"), broken("status 101")),
    Vector("interim with a body", http("Content-Length: 3", first="HTTP/1.1 100 Continue") + b"abc", broken("interim")),
    Vector("7.1 no size", http(CHUNKED, body=b"\r\nhello"), broken("chunk size", status=200)),
    Vector("7.1 size below zero", http(CHUNKED, body=b"-5\r\nhello"), broken("chunk size", status=200)),
    Vector("7.1 size with 0x", http(CHUNKED, body=b"0x5\r\nhello"), broken("chunk size", status=200)),
    Vector("7.1 blank after the size", http(CHUNKED, body=b"5 \r\nhello"), broken("chunk size", status=200)),
    Vector("7.1 size beyond 64 bits", http(CHUNKED, body=b"fffffffffffffffff\r\n"), broken("Chunk size", status=200)),
    Vector("7.1 bare LF", http(CHUNKED, body=b"5\nhello\n0\n\n"), broken("chunk size", status=200)),
    Vector(
        "7.1 chunk too long",
        http(CHUNKED, body=b"5\r\nhelloo\r\n0\r\n\r\n"),
        broken("chunk data", status=200, body=b"hello"),
    ),
    Vector(
        "7.1 chunk too short",
        http(CHUNKED, body=b"6\r\nhello\r\n0\r\n\r\n"),
        broken("chunk", status=200, body=b"hello\r"),
    ),
    Vector(
        "7.1.2 trailer with a length",
        http(CHUNKED, body=b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n"),
        broken("Content-Length", status=200, body=b"x"),
    ),
    Vector(
        "7.1.2 broken trailer",
        http(CHUNKED, body=b"1\r\nx\r\n0\r\nno colon\r\n\r\n"),
        broken("", status=200, body=b"x"),
    ),
    Vector("8 nothing", b"", broken("before its head"), eof=True),
    Vector("8 half a status line", b"HTTP/1.1 20", broken("before its head"), eof=True),
    Vector("8 half a head", b"HTTP/1.1 200 OK\r\nContent-Le", broken("before its head"), eof=True),
    Vector("8 only an interim reply", http(first="HTTP/1.1 100 Continue"), broken("before its head"), eof=True),
    Vector(
        "8 half a body",
        http("Content-Length: 5", body=b"hell"),
        broken("middle of its body", status=200, body=b"hell"),
        eof=True,
    ),
    Vector(
        "8 half a chunk",
        http(CHUNKED, body=b"5\r\nhell"),
        broken("middle of its body", status=200, body=b"hell"),
        eof=True,
    ),
    Vector(
        "8 no last chunk",
        http(CHUNKED, body=b"5\r\nhello\r\n"),
        broken("middle of its body", status=200, body=b"hello"),
        eof=True,
    ),
    Vector(
        "8 no end of trailers",
        http(CHUNKED, body=b"5\r\nhello\r\n0\r\n"),
        broken("middle of its body", status=200, body=b"hello"),
        eof=True,
    ),
    Vector("too many fields", http(*["X: y"] * (MAX_HEADERS + 1), "Content-Length: 0"), broken("header fields")),
]


def read(vector: Vector, pieces: list[bytes]) -> Answer:
    """Feed a reply as a connection does: nothing after the end or a fault."""
    framer = ResponseFramer()
    framer.start(vector.method)
    body = b""
    excess = False
    for piece in pieces:
        if framer.done or framer.fault is not None:
            excess = True
            break
        body += framer.feed(piece)
    if vector.eof and framer.fault is None:
        framer.eof()
    assert framer.done != (framer.fault is not None), "neither complete nor broken, or both"
    assert framer.head_done == (framer.status != 0)
    return Answer(framer.status, body, framer.reusable and not excess, framer.fault)


def agree(found: Answer, wanted: Answer) -> bool:
    if (found.fault is None) != (wanted.fault is None):
        return False
    same = (found.status, found.body, found.reusable) == (wanted.status, wanted.body, wanted.reusable)
    return same and (wanted.fault is None or wanted.fault in (found.fault or ""))


VECTORS = [*CORRECT, *EXCESS, *BROKEN]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_whole(vector: Vector) -> None:
    found = read(vector, [vector.wire] if vector.wire else [])
    assert agree(found, vector.answer), found


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_cut_at_every_byte(vector: Vector) -> None:
    whole = read(vector, [vector.wire] if vector.wire else [])
    for at in range(1, len(vector.wire)):
        assert read(vector, [vector.wire[:at], vector.wire[at:]]) == whole, at


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_byte_by_byte(vector: Vector) -> None:
    whole = read(vector, [vector.wire] if vector.wire else [])
    assert read(vector, [vector.wire[i : i + 1] for i in range(len(vector.wire))]) == whole


def test_random_cuts_of_many_replies_on_one_connection() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    kept = [v for v in CORRECT if v.answer.reusable]
    framer = ResponseFramer()
    for _ in range(500):
        vector = rng.choice(kept)
        framer.start(vector.method)
        body, rest = b"", vector.wire
        while rest:
            at = rng.randint(1, len(rest))
            body += framer.feed(rest[:at])
            rest = rest[at:]
        found = Answer(framer.status, body, framer.reusable, framer.fault)
        assert found == vector.answer, vector.name


@pytest.mark.parametrize("size", [1, 1000, 16384])
def test_head_limit_is_the_same_however_the_head_is_cut(size: int) -> None:
    def head(value: int) -> bytes:
        return http("X: " + "y" * value, "Content-Length: 0")

    spare = len("X") + 4 + len("Content-Length") + len("0") + 4
    fits = Vector("fits", head(MAX_HEAD_BYTES - spare), Answer())
    over = Vector("over", head(MAX_HEAD_BYTES - spare + 1), broken("head that is too large"))
    for vector in (fits, over):
        pieces = [vector.wire[i : i + size] for i in range(0, len(vector.wire), size)]
        assert agree(read(vector, pieces), vector.answer)
        assert agree(read(vector, [vector.wire]), vector.answer)


ENDLESS = {
    "head": (http()[:-2] + b"X: ", b"y"),
    "fields": (http()[:-2], b"X: y\r\n"),
    "interim": (b"", http(first="HTTP/1.1 100 Continue")),
    "trailer": (http(CHUNKED, body=b"1\r\nx\r\n0\r\nX: "), b"y"),
    "extension": (http(CHUNKED, body=b"1;"), b"y"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_cut_off(kind: str) -> None:
    start, more = ENDLESS[kind]
    framer = ResponseFramer()
    framer.start("POST")
    fed = 0
    block = more * (4096 // len(more))
    framer.feed(start + more)
    while framer.fault is None and fed < 10 * MAX_HEAD_BYTES:
        framer.feed(block)
        fed += len(block)
    assert framer.fault is not None
    assert "too large" in framer.fault
    assert fed <= 2 * MAX_HEAD_BYTES + len(block)


def test_long_body_in_tiny_chunks_is_not_mistaken_for_an_endless_head() -> None:
    framer = ResponseFramer()
    framer.start("POST")
    body = framer.feed(http(CHUNKED))
    for _ in range(40_000):
        for piece in (b"1", b"\r\n", b"x", b"\r\n"):
            body += framer.feed(piece)
    body += framer.feed(b"0\r\n\r\n")
    assert (len(body), framer.fault, framer.reusable) == (40_000, None, True)


def test_blank_lines_after_a_reply_are_never_part_of_it() -> None:
    framer = ResponseFramer()
    framer.start("POST")
    assert framer.feed(http("Content-Length: 1", body=b"x\r\n")) == b"x"
    framer.start("POST")
    assert framer.feed(http("Content-Length: 1", body=b"y")) == b"y"
    assert framer.reusable


@pytest.mark.parametrize(
    "lines",
    [
        [
            "Content-Type: application/json",
            "Content-Length: 2",
            "X-Request-ID:  a b \t",
            "Set-Cookie: x=y",
            "RETRY-AFTER:3",
        ],
        ["content-type:text/event-stream", "X: content-length: 7", "Content-Length: 2", "X-Content-Length: 9"],
        ["Cache-Control: a", "cache-control: b", "Content-Length:2", "Empty:", "Retry-After:", "Content-Typed: x"],
        ["Content-Length: 2", "X-High: \xe9", "Openai-Model: m\xe9", "Connection: close"],
    ],
)
def test_fields_are_the_same_however_a_head_is_cut(lines: list[str]) -> None:
    wire = "\r\n".join(["HTTP/1.1 200 OK", *lines, "", "{}"]).encode("latin-1")

    def fields(*pieces: bytes) -> tuple[object, ...]:
        framer = ResponseFramer()
        body = b"".join(framer.feed(piece) for piece in pieces)
        assert framer.done
        return framer.headers, framer.length, framer.event_stream, framer.reusable, body

    whole = fields(wire)
    assert whole[1] == 2
    for at in range(1, len(wire)):
        assert fields(wire[:at], wire[at:]) == whole, at
