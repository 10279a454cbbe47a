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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from llmguard.guard import Guard
from tests.support.bad_input import FAMILIES, GOOD, HEADS, ROUTES, WRONG, Header, MiB, bodies, post, with_member
from tests.support.gateway import Gateway, gateway
from tests.support.load import CHAT, metered
from tests.support.sight import check_store, entries
from tests.support.upstream import Upstream, upstream
from tests.support.valkey import ValkeyServer

CORPORA = Path(os.environ.get("LLMGUARD_CORPORA", Path(__file__).parents[2] / "../shared/corpora"))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_bodies_that_are_no_document(world: World, family: str) -> None:
    for name, body in bodies(family).items():
        status = check_refused(world, family, body)
        assert status == (413 if name == "larger than allowed" else 400), name


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


def test_routes_that_are_not_served(world: World) -> None:
    body = json.dumps(GOOD["openai"][1]).encode()
    for path in ROUTES:
        status, _, reply = exchange(world, post(path, body, world.keys["good"]))
        assert status in (400, 403, 404), (path, status)
        assert json.loads(reply)["error"]["message"], path
        assert world.provider.requests == [], path


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
