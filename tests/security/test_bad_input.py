"""Malformed and hostile requests against one running gateway, over sockets.

Each gets a 4xx in its dialect's shape. Nothing reaches the provider, nothing is written down or held, and the gateway
goes on serving.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmguard.guard import Guard
from tests.support.gateway import Gateway, gateway
from tests.support.load import CHAT, metered
from tests.support.sight import check_store, entries
from tests.support.upstream import Upstream, upstream
from tests.support.valkey import ValkeyServer

CORPORA = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[2] / "../shared/corpora"))
MESSAGES, GENERATE = "/v1/messages", "/v1beta/models/gemini-2.0-flash:generateContent"
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (CHAT, {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "user": "good-0"}),
    "anthropic": (
        MESSAGES,
        {"model": "claude-3-haiku", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
    ),
    "gemini": (GENERATE, {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
}
FAMILIES = tuple(GOOD)
MiB = 1024 * 1024


@dataclass(frozen=True)
class World:
    """A gateway that refuses unknown models, with a good key, one that has expired, and one that was revoked."""

    served: Gateway
    provider: Upstream
    store: ValkeyServer
    keys: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with upstream() as provider, ValkeyServer() as store:
        provider.reply(metered(delay=0))
        common = {"base_url": provider.origin, "keys": ["k"], "internal": True}
        config = {
            "providers": {family: {"dialect": family, **common} for family in FAMILIES},
            "unknown_model": "refuse",
            "budgets": [{"name": "team", "scope": {"team": "*"}, "limit": "$100", "window": "total"}],
            "store": store.tcp_url,
        }
        with gateway(tmp_path_factory.mktemp("bad-input"), config) as served:
            ledger = Guard(str(served.path)).ledger()
            gone, revoked = ledger.keys.create("search", "prod", "chat")
            ledger.keys.revoke(gone.id)
            keys = {
                "good": ledger.keys.create("search", "prod", "chat")[1],
                "other": ledger.keys.create("other", "prod", "chat")[1],
                "expired": ledger.keys.create("search", "prod", "chat", expires_at=1)[1],
                "revoked": revoked,
            }
            ledger.close()
            yield World(served, provider, store, keys)


@pytest.fixture(autouse=True)
def nothing_happens(world: World) -> Iterator[None]:
    """No bad request is forwarded, written down or held, and a good one is served after it."""
    before = entries(world.served)
    yield
    assert world.provider.requests == []
    assert entries(world.served) == before
    check_store(world.store, sum(entry["cost_nano"] for entry in before), timeout=1)
    path, good = GOOD["openai"]
    headers = {"authorization": f"Bearer {world.keys['good']}"}
    assert httpx2.post(world.served.url + path, json=good, headers=headers).status_code == 200
    while world.served.metric("llmguard_spool_records_unshipped"):
        time.sleep(0.02)
    world.provider.requests.clear()


Header = tuple[bytes, bytes]


def exchange(world: World, request: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send bytes on a connection of their own; status, headers and body of what comes back."""
    with socket.create_connection(("127.0.0.1", world.served.port), timeout=20) as connection:
        try:
            connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was said
        reply = b""
        while b"\r\n\r\n" not in reply or len(reply) < _length(reply):
            try:
                data = connection.recv(65_536)
            except ConnectionResetError:
                break
            if not data:
                break
            reply += data
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head, "the connection was closed without an answer"
    lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines[1:])
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


def _length(reply: bytes) -> int:
    head, _, _ = reply.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(head) + 4 + int(line.split(b":")[1])
    return 1 << 62


def post(
    path: str | bytes,
    body: bytes,
    key: str | None,
    *more: Header,
    host: bytes = b"localhost",
    method: bytes = b"POST",
    length: bool = True,
) -> bytes:
    """A request, with nothing checked."""
    target = path if isinstance(path, bytes) else path.encode()
    lines = [method + b" " + target + b" HTTP/1.1", b"host: " + host, b"content-type: application/json"]
    if key is not None:
        lines.append(b"authorization: Bearer " + key.encode())
    lines += [name + b": " + value for name, value in more]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def check_shape(family: str, status: int, body: bytes) -> None:
    """The error shape that the family's SDK reads."""
    document = json.loads(body)
    error = document["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    if family == "openai":
        assert set(error) >= {"message", "type", "code"}
        assert isinstance(error["code"], str)
    elif family == "anthropic":
        assert document["type"] == "error"
        assert isinstance(error["type"], str)
    else:
        assert error["code"] == status
        assert error["status"].isupper()


def check_refused(world: World, family: str, body: bytes, *more: Header, path: str | None = None) -> int:
    status, headers, reply = exchange(world, post(path or GOOD[family][0], body, world.keys["good"], *more))
    assert 400 <= status < 500, (status, reply[:300])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-llmguard-request-id"]
    check_shape(family, status, reply)
    assert world.provider.requests == [], body[:200]
    return status


# ---------------------------------------------------------------------- bodies


def bodies(family: str) -> dict[str, bytes]:
    """Bodies that no dialect of this family may take."""
    good = GOOD[family][1]
    text = json.dumps(good).encode()
    found = {f"cut at {at}": text[:at] for at in range(0, len(text) - 1, 9)}
    found |= {
        "empty": b"",
        "a number": b"1",
        "null": b"null",
        "a string": b'"x"',
        "an array": b"[" + text + b"]",
        "two documents": text + text,
        "a tail": text + b"x",
        "NUL behind": text + b"\x00",
        "form": b"model=gpt-4o&messages=Hi",
        "single quotes": text.replace(b'"', b"'"),
        "comment": b"/* */" + text,
        "comma behind": text[:-1] + b",}",
        "UTF-16": json.dumps(good).encode("utf-16"),
        "UTF-32": json.dumps(good).encode("utf-32-le"),
        "byte order mark": b"\xef\xbb\xbf" + text,
        "bad UTF-8": text.replace(b"Hi", b"\xff"),
        "overlong UTF-8": text.replace(b"Hi", b"\xc0\xaf"),
        "surrogate in UTF-8": text.replace(b"Hi", b"\xed\xa0\x80"),
        "cut UTF-8": text.replace(b"Hi", b"\xf0\x9f\x98"),
        "control character": text.replace(b"Hi", b"\x01"),
        "line break in a string": text.replace(b"Hi", b"\n"),
        "bad escape": text.replace(b"Hi", b"\\x"),
        "short escape": text.replace(b"Hi", b"\\u12"),
        "not a number": text[:-1] + b', "x": NaN}',
        "infinite": text[:-1] + b', "x": Infinity}',
        "deep": text[:-1] + b', "x": ' + b"[" * 70 + b"]" * 70 + b"}",
        "ten megabytes of arrays": b"[" * (10 * MiB - 1),
        "ten megabytes of objects": b'{"a":' * (2 * MiB - 1),
        "ten megabytes deep in a member": text[:-1] + b', "x": ' + b"[" * (9 * MiB),
        "larger than allowed": b" " * (10 * MiB + 1),
    }
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_bodies_that_are_no_document(world: World, family: str) -> None:
    for name, body in bodies(family).items():
        status = check_refused(world, family, body)
        assert status == (413 if name == "larger than allowed" else 400), name


def with_member(family: str, name: str, value: bytes) -> bytes:
    """The good body with one member written anew, as raw JSON."""
    good = {key: json.dumps(one).encode() for key, one in GOOD[family][1].items()} | {name: value}
    return b"{" + b", ".join(b'"%b": %b' % (key.encode(), raw) for key, raw in good.items()) + b"}"


WRONG: dict[str, dict[str, Sequence[bytes]]] = {
    "openai": {
        "model": [b"5", b"null", b"[]", b"{}", b'""', b"true", b'"' + b"m" * 10_000 + b'"'],
        "messages": [b"5", b'"Hi"', b"{}", b"[5]", b"[null]", b'["Hi"]'],
        "max_tokens": [b'"9"', b"-2", b"1.5", b"true", b"[]", b"{}", b"1e400", b"9" * 400, b"-0.5"],
        "max_completion_tokens": [b'"9"', b"-2", b"true", b"9" * 30],
        "n": [b'"2"', b"0", b"-1", b"1.5", b"true", b"1000000000", b"[]"],
        "stream": [b'"true"', b"1", b"[]", b"{}"],
        "stream_options": [b"1", b'"x"', b"[]", b'{"include_usage": "no"}'],
    },
    "anthropic": {
        "model": [b"5", b"null", b"[]", b'""'],
        "messages": [b"5", b'"Hi"', b"{}", b"[5]"],
        "max_tokens": [b'"9"', b"-1", b"1.5", b"true", b"9" * 400],
        "stream": [b'"true"', b"1"],
        "thinking": [b"5", b'"on"', b'{"type": 5}', b'{"type": "enabled", "budget_tokens": "many"}'],
    },
    "gemini": {
        "contents": [b"5", b"{}x", b"[5]"],
        "generationConfig": [b"5", b"[]", b'"x"', b'{"maxOutputTokens": "x"}', b'{"maxOutputTokens": -1}'],
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_wrong_type_or_size(world: World, family: str) -> None:
    for name, values in WRONG[family].items():
        for value in values:
            assert check_refused(world, family, with_member(family, name, value)) == 400, (name, value[:50])


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_come_twice(world: World, family: str) -> None:
    text = json.dumps(GOOD[family][1]).encode()
    for name in GOOD[family][1]:
        again = b'{"%b": "x", ' % name.encode() + text[1:]
        assert check_refused(world, family, again) == 400
        hidden = b'{"\\u%04x%b": "x", ' % (ord(name[0]), name[1:].encode()) + text[1:]
        assert check_refused(world, family, hidden) == 400
    inner = b'"role": "user"'
    assert check_refused(world, family, text.replace(inner, inner + b', "role": "system"')) == 400


@pytest.mark.parametrize("family", ["openai", "anthropic"])
def test_no_model_and_models_nobody_knows(world: World, family: str) -> None:
    good = GOOD[family][1]
    without = {name: value for name, value in good.items() if name != "model"}
    assert check_refused(world, family, json.dumps(without).encode()) == 400
    for model in ("no-such-model-9", "nobody/gpt-4o", "openai/no-such-model-9", "../gpt-4o", "gpt-4o\u0000", "\ud800"):
        assert check_refused(world, family, json.dumps(good | {"model": model}).encode()) in (400, 404), model


def suite() -> list[tuple[str, bytes]]:
    file = CORPORA / "security/json_test_suite.jsonl"
    if not file.exists():
        pytest.skip(f"no JSONTestSuite at {file}")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return [(record["name"], record["expect"], base64.b64decode(record["base64"])) for record in records]


def test_json_test_suite(world: World) -> None:
    """No document of the suite is a call; those to be rejected are no value of a member of one either."""
    text = json.dumps(GOOD["openai"][1]).encode()
    for name, expect, body in suite():
        assert check_refused(world, "openai", body) == 400, name
        if expect == "reject" and body.strip():
            inside = text[:-1] + b', "metadata": ' + body + b"}"
            if not is_json(inside):  # `1]` and the like end the member and begin another
                assert check_refused(world, "openai", inside) == 400, name


def is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


# ---------------------------------------------------------------------- keys


def test_keys_that_are_no_good(world: World) -> None:
    for family in FAMILIES:
        path, good = GOOD[family]
        body = json.dumps(good).encode()
        good_key = world.keys["good"]
        wrong: list[tuple[str | None, Sequence[Header]]] = [
            (None, ()),
            (world.keys["expired"], ()),
            (world.keys["revoked"], ()),
            (good_key[:-1], ()),
            (good_key + "x", ()),
            (good_key.upper(), ()),
            ("sk-proj-" + "x" * 40, ()),
            ("lg_" + "x" * 5_000, ()),
            (None, [(b"authorization", b"Basic " + base64.b64encode(f":{good_key}".encode()))]),
            (None, [(b"authorization", good_key.encode())]),
            (None, [(b"cookie", b"key=" + good_key.encode())]),
            (None, [(b"proxy-authorization", b"Bearer " + good_key.encode())]),
        ]
        for key, more in wrong:
            status, _, reply = exchange(world, post(path, body, key, *more))
            assert status == 401, (family, key, reply)
            check_shape(family, status, reply)
            assert good_key.encode() not in reply
        two = post(path, body, good_key, (b"x-api-key", world.keys["other"].encode()))
        status, _, reply = exchange(world, two)
        assert (status, b"two_keys" in reply.lower()) == (400, True)
        status, _, reply = exchange(world, post(f"{path}?key={good_key}", body, None))
        assert (status, b"key_in_query" in reply.lower()) == (400, True)


# ---------------------------------------------------------------------- heads

ROUTES = (
    "/", "/v1", "/v1/", "/v1/nothing", "/v2/chat/completions", "/v1/chat/completions/", "/v1/Chat/Completions",
    "/v1/chat/completions/../models", "/v1/organization/users", "/v1/fine_tuning/jobs", "/admin", "/admin/api/keys",
    "/.env", "/v1/messages/batches/%2e%2e", "/openai", "/nobody/v1/chat/completions", "/v1beta/models/m:nothing",
    "/v1beta/models/a%2fb:generateContent", "/v1/chat%00completions", "//v1/chat/completions", "/v1/./models",
    "/v1/chat/completions;x=1", "/v1/chat\\completions", "/v1/models/%zz",
)  # fmt: skip


def test_routes_that_are_not_served(world: World) -> None:
    body = json.dumps(GOOD["openai"][1]).encode()
    for path in ROUTES:
        status, _, reply = exchange(world, post(path, body, world.keys["good"]))
        assert status in (400, 403, 404), (path, status)
        assert json.loads(reply)["error"]["message"], path
        assert world.provider.requests == [], path


HEADS: dict[str, Callable[[bytes, str], bytes]] = {
    "two lengths": lambda b, k: post(CHAT, b, k, (b"content-length", b"%d" % len(b))),
    "two different lengths": lambda b, k: post(CHAT, b, k, (b"content-length", b"1")),
    "length and chunks": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"chunked")),
    "negative length": lambda b, k: post(CHAT, b, k, (b"content-length", b"-1"), length=False),
    "signed length": lambda b, k: post(CHAT, b, k, (b"content-length", b"+%d" % len(b)), length=False),
    "length in hex": lambda b, k: post(CHAT, b, k, (b"content-length", b"0x10"), length=False),
    "huge length": lambda b, k: post(CHAT, b, k, (b"content-length", b"9" * 30), length=False),
    "unknown coding": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"gzip, chunked"), length=False),
    "chunked twice": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"chunked, chunked"), length=False),
    "hidden coding": lambda b, k: post(CHAT, b, k, (b"transfer-encoding", b"\x0bchunked"), length=False),
    "two hosts": lambda b, k: post(CHAT, b, k, (b"host", b"evil.example")),
    "host with a path": lambda b, k: post(CHAT, b, k, host=b"a/b"),
    "host with an at": lambda b, k: post(CHAT, b, k, host=b"a@b"),
    "host with a fragment": lambda b, k: post(CHAT, b, k, host=b"a#b"),
    "empty host": lambda b, k: post(CHAT, b, k, host=b""),
    "two content types": lambda b, k: post(CHAT, b, k, (b"content-type", b"text/plain")),
    "two authorizations": lambda b, k: post(CHAT, b, k, (b"authorization", b"Bearer x")),
    "underscore": lambda b, k: post(CHAT, b, k, (b"x_api_key", b"x")),
    "two features": lambda b, k: post(CHAT, b, k, (b"x-llmguard-feature", b"a"), (b"x-llmguard-feature", b"b")),
    "another feature": lambda b, k: post(CHAT, b, k, (b"x-llmguard-feature", b"billing")),
    "gzip": lambda b, k: post(CHAT, b, k, (b"content-encoding", b"gzip")),
    "upgrade": lambda b, k: post(CHAT, b, k, (b"connection", b"upgrade"), (b"upgrade", b"websocket")),
    "expectation": lambda b, k: post(CHAT, b, k, (b"expect", b"200-ok")),
    "space in a name": lambda b, k: post(CHAT, b, k, (b"x y", b"x")),
    "space before the colon": lambda b, k: post(CHAT, b, k, (b"x-y ", b"x")),
    "empty name": lambda b, k: post(CHAT, b, k, (b"", b"x")),
    "NUL in a value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\x00b")),
    "bare line feed in a value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\nx-z: b")),
    "bare carriage return in a value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\rx-z: b")),
    "folded value": lambda b, k: post(CHAT, b, k, (b"x-y", b"a\r\n b")),
    "101 headers": lambda b, k: post(CHAT, b, k, *[(b"x-%d" % n, b"x") for n in range(101)]),
    "a large header": lambda b, k: post(CHAT, b, k, (b"x-y", b"x" * 40_000)),
    "a long line": lambda b, k: post(CHAT + "?a=" + "x" * 9_000, b, k),
    "bytes in the path": lambda b, k: post(b"/v1/\xff", b, k),
    "space in the path": lambda b, k: post(b"/v1/chat completions", b, k),
    "unknown method": lambda b, k: post(CHAT, b, k, method=b"TRACE"),
    "invented method": lambda b, k: post(CHAT, b, k, method=b"GUESS"),
    "connect": lambda b, k: post(b"evil.example:443", b, k, method=b"CONNECT"),
    "proxy request": lambda b, k: post(b"http://evil.example/v1/chat/completions", b, k),
    "get": lambda b, k: post(CHAT, b, k, method=b"GET"),
    "delete": lambda b, k: post(CHAT, b, k, method=b"DELETE"),
    "no version": lambda b, k: b"POST " + CHAT.encode() + b"\r\n\r\n",
    "version 2": lambda b, k: post(CHAT, b, k).replace(b"HTTP/1.1", b"HTTP/2.0", 1),
    "not http": lambda b, k: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_can_be_read_in_two_ways(world: World, name: str) -> None:
    body = json.dumps(GOOD["openai"][1]).encode()
    status, headers, reply = exchange(world, HEADS[name](body, world.keys["good"]))
    assert 400 <= status < 500 or status == 505, (status, reply[:300])
    assert headers[b"content-type"] == b"application/json"
    check_shape("openai", status, reply)
    assert world.provider.requests == []


def test_a_body_that_never_ends_is_not_kept(world: World) -> None:
    """Chunks without end: refused once they are too much, whatever was announced."""
    head = post(CHAT, b"", world.keys["good"], (b"transfer-encoding", b"chunked"), length=False)
    chunk = b"%x\r\n%b\r\n" % (MiB, b" " * MiB)
    status, _, reply = exchange(world, head + chunk * 11 + b"0\r\n\r\n")
    assert status == 413
    check_shape("openai", status, reply)


# ---------------------------------------------------------------------- one request cannot hold up the others


def test_no_request_holds_up_the_others(world: World) -> None:
    """While the most expensive bodies are refused, `/livez` answers; the longest wait is printed."""
    waits: list[float] = []
    done = threading.Event()

    def watch() -> None:
        with httpx2.Client() as client:
            while not done.is_set():
                began = time.monotonic()
                assert client.get(f"{world.served.url}/livez").status_code == 200
                waits.append(time.monotonic() - began)
                time.sleep(0.002)

    text = json.dumps(GOOD["openai"][1]).encode()[:-1]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for filling in (b"1," * (4 * MiB), b'{"a":1},' * MiB, b'"\\u0041",' * MiB, b"1e5," * (2 * MiB)):
            check_refused(world, "openai", text + b', "n": 0, "x": [' + filling + b"1]}")
    finally:
        done.set()
        watcher.join(10)
    print(f"longest wait {max(waits) * 1000:.0f} ms of {len(waits)}")
    assert max(waits) < 1.0
