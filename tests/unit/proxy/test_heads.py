"""A head that repeats the last one is not parsed again: what the application sees must be the same as if it were."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.server import ServerState

from llmguard.proxy import heads, protocol
from llmguard.proxy.heads import MEMO, KnownHead, learn
from llmguard.proxy.protocol import HttpProtocol

HEAD = b"POST /v1/x?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-Two: 2\r\n\r\n"


def request(body: bytes, head: bytes = HEAD) -> bytes:
    return head % len(body) + body


def known(body: bytes = b"hello", head: bytes = HEAD) -> KnownHead | None:
    data = request(body, head)
    return learn(data, len(body), {"headers": [(b"host", b"a"), (b"content-length", b"%d" % len(body))]})


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 12_345, b"\r\n\r\nPOST / HTTP/1.1\r\n\r\n"])
def test_a_whole_request_of_the_same_head_is_cut_out(body: bytes) -> None:
    head = known()
    assert head is not None
    assert head.body_in(request(body)) == body
    assert head.scope(len(body), {"a": 1}) == {
        "headers": [(b"host", b"a"), (b"content-length", b"%d" % len(body))],
        "state": {"a": 1},
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(b"hello")[:-1],
        request(b"hello") + b"P",
        request(b"hello") + request(b"hello"),
        b"\r\n" + request(b"hello"),
        request(b"hello").replace(b"X-Two: 2", b"X-Two: 3"),
        request(b"hello").replace(b"Host: a", b"Host: b"),
        request(b"hello").replace(b"Length: 5", b"Length: -5"),
        request(b"hello").replace(b"Length: 5", b"Length: +5"),
        request(b"hello").replace(b"Length: 5", b"Length: 5 "),
        request(b"hello").replace(b"Length: 5", b"Length: 0x5"),
        request(b"hello").replace(b"Length: 5", b"Length: "),
        request(b"hello").replace(b"Length: 5", b"Length: 5, 5"),
        request(b"hello").replace(b"Length: 5", b"Length: 5\r\nTransfer-Encoding: chunked"),
        request(b"hello").replace(b"Length: 5", b"Length: " + b"0" * 20 + b"5"),
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    head = known()
    assert head is not None
    assert head.body_in(data) is None


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 1),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\r\nx\r\n", 3),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx", 1),
    ],
)
def test_a_head_without_one_plain_length_is_not_remembered(data: bytes, body: int) -> None:
    assert learn(data, body, {"headers": [(b"content-length", b"3")]}) is None


class Seen:
    """Notes what the application sees of each request, and answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], bytes]] = []
        self.memos: list[dict[Any, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        self.requests.append(({**scope, "extensions": None}, body))
        self.memos.append(scope["extensions"][MEMO])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Wire(asyncio.Transport):
    """Takes everything and is never full."""

    def write(self, data: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...


async def served(*parts: bytes) -> Seen:
    seen = Seen()
    config: Any = SimpleNamespace(loaded_app=seen, root_path="", timeout_keep_alive=75)
    connection = HttpProtocol(config, ServerState(), {"s": 1}, asyncio.get_running_loop())
    connection.connection_made(Wire())
    for part in parts:
        connection.data_received(part)
        for _ in range(4):
            await asyncio.sleep(0)
    return seen


def test_requests_are_seen_alike_with_and_without_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    other = HEAD.replace(b"X-Two: 2", b"x-two:  3 ")
    get = b"GET /g HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(60):
        parts: list[bytes] = []
        for _ in range(rng.randrange(1, 9)):
            head = rng.choice((HEAD, HEAD, HEAD, other))
            data = get if rng.random() < 0.1 else request(rng.randbytes(rng.choice((0, 1, 9, 10, 999))), head)
            cut = rng.randrange(len(data)) if rng.random() < 0.3 else 0
            parts += [data[:cut], data[cut:]] if cut else [data]
            if rng.random() < 0.2 and len(parts) > 1:
                last = parts.pop()
                parts[-1] += last
        quick = asyncio.run(served(*parts))
        with monkeypatch.context() as patch:
            patch.setattr(protocol, "learn", lambda *_: None)
            plain = asyncio.run(served(*parts))
        assert quick.requests == plain.requests
        assert len(quick.requests) > 0


def test_only_requests_of_one_head_share_a_memo() -> None:
    other = HEAD.replace(b"X-Two: 2", b"X-Two: 3")
    seen = asyncio.run(served(request(b"1"), request(b"22"), request(b"1", other), request(b"333", other)))
    first, again, another, another_again = seen.memos
    assert first is again
    assert another is another_again
    assert first is not another


def test_a_length_may_have_as_many_digits_as_the_edge_lets_pass() -> None:
    head = known()
    assert head is not None
    assert (
        head.body_in(request(b"hello").replace(b"Length: 5", b"Length: " + b"5".rjust(heads._LONGEST, b"0")))
        == b"hello"
    )
