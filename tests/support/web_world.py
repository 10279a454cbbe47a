"""What tests of web applications share: a provider, a store, a ledger and its keys, and one server after the other."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from llmguard.guard import Guard
from tests.support.gateway import Gateway
from tests.support.sight import entries, levels
from tests.support.upstream import Upstream, upstream
from tests.support.valkey import ValkeyServer
from tests.support.web_servers import WebServer, web_server


@dataclass(frozen=True)
class Shared:
    """Everything but the server. ``poor`` is a key whose feature has almost no money."""

    home: Path
    served: Gateway
    provider: Upstream
    store: ValkeyServer
    key: str
    poor: str


@dataclass(frozen=True)
class World(Shared):
    """A server with the gateway below ``prefix``."""

    server: WebServer
    prefix: str

    def post(self, body: Any, key: str | None = None, path: str = "/v1/chat/completions") -> httpx2.Response:
        """A call with a key."""
        return httpx2.post(
            self.server.url + self.prefix + path, json=body, headers=_bearer(key or self.key), timeout=20
        )

    def stream(self, body: Mapping[str, Any]) -> Any:
        """A streamed call, as a context."""
        url = self.server.url + self.prefix + "/v1/chat/completions"
        return httpx2.stream("POST", url, json={**body, "stream": True}, headers=_bearer(self.key), timeout=20)

    def request(self, body: Mapping[str, Any]) -> bytes:
        """A call as it goes over the wire."""
        return wire("POST", f"{self.prefix}/v1/chat/completions", json.dumps(body).encode(), self.key)

    def settled(self) -> None:
        """The store has what the ledger has, and holds nothing."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            kept = levels(self.store, "usd|total|0|team=")
            charged = sum(entry["cost_nano"] for entry in entries(self.served))
            if not kept["held"] and kept["settled"] == charged:
                return
            time.sleep(0.05)
        raise AssertionError((dict(kept), charged))


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def chat(**more: Any) -> dict[str, Any]:
    """A chat call of a small price."""
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, **more}


def wire(method: str, path: str, body: bytes = b"", key: str = "none") -> bytes:
    """A request as it goes over the wire."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def shared(home: Path, **more: Any) -> Iterator[Shared]:
    """A provider, a store, a ledger with keys; ``more`` goes into the configuration."""
    with upstream() as provider, ValkeyServer() as store:
        served = Gateway(home, config(provider, store) | more)
        ledger = Guard(str(served.path)).ledger()
        ledger.make_ready()
        _, key = ledger.keys.create("search", "prod", "chat")
        _, poor = ledger.keys.create("poor", "prod", "little")
        ledger.close()
        yield Shared(home, served, provider, store, key, poor)


def config(provider: Upstream, store: ValkeyServer) -> dict[str, Any]:
    """One provider, one price, a rich budget and a poor one."""
    local = {"dialect": "openai", "base_url": provider.origin, "keys": ["upstream-key"], "internal": True}
    return {
        "store": store.tcp_url,
        "providers": {"local": local | {"default": True}},
        "prices": {"local/*": {"input": "$5/M", "output": "$15/M"}},
        "budgets": [
            {"name": "all", "scope": {"team": "*"}, "limit": "$100", "window": "total"},
            {"name": "poor", "scope": {"team": "poor", "feature": "little"}, "limit": "$0.0005", "window": "hour"},
        ],
    }


@contextmanager
def world_of(
    common: Shared,
    kind: str,
    application: str,
    prefix: str = "",
    env: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
) -> Iterator[World]:
    """``application`` served by a server of ``kind`` until the block ends."""
    environ = {"SERVED_CONFIG": str(common.served.path), "SERVED_PROVIDER": common.provider.origin, **(env or {})}
    with web_server(kind, application, common.home, probe=f"{prefix}/readyz", env=environ, extra=extra) as server:
        yield World(
            **{name: getattr(common, name) for name in Shared.__dataclass_fields__}, server=server, prefix=prefix
        )


def hang_up(world: World, request: bytes, heard: bytes = b"") -> int:
    """Send a request, read until ``heard`` has come, and leave; returns the number of the provider's connection."""
    calls = len(world.provider.requests)
    with socket.create_connection(("127.0.0.1", int(world.server.url.rpartition(":")[2])), 10) as line:
        _say(line, request, heard)
        world.provider.wait_for(lambda u: len(u.requests) > calls)
    return world.provider.requests[-1].connection


def hang_up_on_server(world: World, request: bytes, heard: bytes) -> None:
    """The same where there is no provider."""
    with socket.create_connection(("127.0.0.1", int(world.server.url.rpartition(":")[2])), 10) as line:
        _say(line, request, heard)


def _say(line: socket.socket, request: bytes, heard: bytes) -> None:
    line.sendall(request)
    got = b""
    while heard not in got:
        got += line.recv(65536)


def closed_within(world: World, number: int, seconds: float) -> None:
    """The provider's connection ends in time."""
    left = time.monotonic()
    world.provider.wait_for(lambda u: number not in u.alive, seconds + 2)
    assert time.monotonic() - left < seconds


def wait_for_new(world: Shared, known: set[str]) -> list[dict[str, Any]]:
    """The entries that came since."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if new := [entry for entry in entries(world.served) if entry["event_id"] not in known]:
            return new
        time.sleep(0.05)
    raise AssertionError("no new entry")


def known_to(world: World) -> set[str]:
    """The entries that are there, once all calls so far are on record."""
    world.settled()
    return {entry["event_id"] for entry in entries(world.served)}
