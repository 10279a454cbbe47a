"""The test provider does what it is told, or every test on top of it would prove nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.upstream import Seen, Upstream, answer, cut, random_cuts, recorded, upstream


@pytest.fixture
def server() -> Iterator[Upstream]:
    with upstream() as u:
        yield u


@pytest.fixture
def client(server: Upstream) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=5) as c:
        yield c


def test_requests_are_counted_and_kept_whole(server: Upstream, client: httpx2.Client) -> None:
    server.reply(json_body={"id": "x"}, headers={"x-request-id": "r1"}, status=201)
    for body in (b"", b"{}", b"a" * 100_000):
        got = client.post("/v1/x?beta=true", content=body, headers={"X-Api-Key": "k"})
        assert (got.status_code, got.headers["x-request-id"], got.json()) == (201, "r1", {"id": "x"})
    assert [(s.method, s.target, len(s.body)) for s in server.requests] == [
        ("POST", "/v1/x?beta=true", n) for n in (0, 2, 100_000)
    ]
    assert server.requests[0].header("x-api-key") == "k"
    assert server.connections == 1
    client.post("/", content=iter([b"chunk", b"ed"]))
    assert server.requests[-1].body == b"chunked"


def test_queued_answers_come_before_the_standing_one(server: Upstream, client: httpx2.Client) -> None:
    server.reply(lambda seen: answer(json_body=seen.target))
    server.queue(body="first")
    assert [client.get("/a").text, client.get("/b").text] == ["first", '"/b"']


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_body_is_the_same_however_it_is_cut(server: Upstream, client: httpx2.Client, framing: str) -> None:
    body = bytes(range(256)) * 3
    for cuts in ([], [1], [700, 1, 67], random_cuts(len(body), seed=7)):
        server.queue(answer(body=body, cuts=cuts, framing=framing))  # type: ignore[arg-type]
        server.queue(answer(body=body, framing=framing, wire=cuts))  # type: ignore[arg-type]
        assert [client.get("/").content, client.get("/").content] == [body, body]


def test_a_recorded_stream_is_replayed_byte_for_byte(server: Upstream, client: httpx2.Client) -> None:
    text = 'data: {"a":"é"}\n\ndata: [DONE]\n\n'
    record = {"response": {"status": 200, "headers": {}, "sse_text": text}, "stream_format": "sse"}
    server.queue(recorded(record, cuts=[5]))
    got = client.get("/")
    assert (got.text, got.headers["content-type"]) == (text, "text/event-stream; charset=utf-8")
    assert got.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize(("fault", "after"), [("close", None), ("reset", None), ("close", 4), ("reset", 4)])
def test_faults_strike_where_they_should(server: Upstream, fault: str, after: int | None) -> None:
    server.queue(answer(body=b"12345678", fault=fault, after=after))
    with socket.create_connection(("127.0.0.1", server.port), 5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        got = b""
        try:
            while piece := sock.recv(100):
                got += piece
            ended = "close"
        except ConnectionResetError:
            ended = "reset"
    assert ended == fault
    assert got.endswith(b"" if after is None else b"1234")
    assert len(got) == 0 or after is not None or fault == "reset"


def test_a_hanging_answer_ends_when_the_caller_leaves(server: Upstream) -> None:
    server.queue(body=b"12345678", fault="hang", after=3)
    with socket.create_connection(("127.0.0.1", server.port), 5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        got = b""
        while not got.endswith(b"123"):
            got += sock.recv(100)
        assert server.open_connections == 1
    server.wait_for(lambda u: u.open_connections == 0)


def test_stopping_does_not_wait_for_callers_that_do_not_read() -> None:
    with socket.socket() as sock, upstream() as u:
        u.reply(body=b"x" * 50_000_000)
        sock.connect(("127.0.0.1", u.port))
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        u.wait_for(lambda u: len(u.requests) == 1)


def test_a_header_sent_twice_is_an_error_of_the_test() -> None:
    seen = Seen("GET", "/", [("a", "1"), ("A", "2")], b"", 1)
    with pytest.raises(AssertionError, match="2 times"):
        seen.header("a")


def test_cuts_cover_everything_once() -> None:
    assert cut(b"abcdefg", [3, 1]) == [b"abc", b"d", b"e", b"f", b"g"]
    assert cut(b"", [3]) == []
    assert sum(random_cuts(1000, seed=1)) >= 1000
    assert random_cuts(1000, seed=1) == random_cuts(1000, seed=1)
