"""A guard inside the test's own process, before a provider of every family on loopback, and what it writes down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import sqlalchemy as sa
from google import genai

from llmguard.guard import Guard
from llmguard.integrations.httpx import async_http_client, http_client
from llmguard.providers.sandbox import Ask, Shelf, respond
from tests.support.sdks import Calls
from tests.support.upstream import Answer, Seen, Upstream, upstream

FAMILIES = {"local": "openai", "claude": "anthropic", "google": "gemini"}
PRICE = {"input": "$1/M", "output": "$1/M"}


def sandbox() -> Any:
    """A provider that answers every API as the sandbox does, over real sockets."""
    shelf, ids = Shelf(), iter(range(10**9))

    def reply(seen: Seen) -> Answer:
        path, _, query = seen.target.partition("?")
        headers = {name.lower(): value for name, value in seen.headers}
        ask = Ask(seen.method, path, query, headers, seen.body, lambda prefix: f"{prefix}{next(ids)}", 1, shelf)
        said = respond(ask)
        pairs = [(name.decode(), value.decode()) for name, value in said.headers]
        return Answer(said.status, pairs, said.pieces, "chunked" if said.streams else "length")

    return reply


def configuration(home: Path, origin: str, **sections: Any) -> dict[str, Any]:
    """One provider of each family at ``origin``, at a dollar a million tokens."""
    common = {"base_url": origin, "keys": ["k"], "internal": True}
    return {
        "providers": {name: {"dialect": family, **common} for name, family in FAMILIES.items()},
        "prices": {f"{name}/*": PRICE for name in FAMILIES},
        "ledger": f"sqlite:///{home / 'ledger.db'}",
        "spool": {"path": str(home / "spool")},
    } | sections


def ledger_rows(url: str, **where: Any) -> list[dict[str, Any]]:
    """Rows of the view `ledger_entries`, in order of time."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT * FROM ledger_entries ORDER BY created_at, event_id"))
            rows = [dict(row) for row in found.mappings()]
    except sa.exc.OperationalError:  # no table yet
        return []
    finally:
        engine.dispose()
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


class Inside:
    """The guard, its provider, and its ledger."""

    def __init__(self, guard: Guard, provider: Upstream) -> None:
        self.guard = guard
        self.provider = provider

    def rows(self, count: int, timeout: float = 5.0, **where: Any) -> list[dict[str, Any]]:
        """The rows, once there are as many; fails when there are others."""
        until = time.monotonic() + timeout
        while len(rows := ledger_rows(self.guard.config.ledger, **where)) < count and time.monotonic() < until:
            time.sleep(0.02)
        assert len(rows) == count, f"{len(rows)} rows, {count} wanted"
        return rows

    def idle(self) -> bool:
        """Whether no call is open."""
        return not self.guard.process().live


@contextmanager
def inside(home: Path, **sections: Any) -> Iterator[Inside]:
    """A guard in this process; whatever it began is ended with the block."""
    with upstream() as provider:
        provider.reply(sandbox())
        guard = Guard(configuration(home, provider.origin, **sections))
        try:
            yield Inside(guard, provider)
        finally:
            guard.close()


class GuardedSdks(Calls):
    """One client of each SDK with guarded HTTP clients; the same face as :class:`tests.support.sdks.Sdks`."""

    def __init__(self, url: str, runner: asyncio.Runner | None, options: dict[str, Any]) -> None:
        super().__init__(runner)
        sync = runner is None
        kinds = [options, options | {"module": "httpx2"}, options]  # Anthropic's takes no client of httpx
        self._clients = [http_client(**kind) for kind in kinds]
        self._async_clients = [async_http_client(**kind) for kind in kinds]
        made: Any = self._clients if sync else self._async_clients
        oai, ant = (openai.OpenAI, anthropic.Anthropic) if sync else (openai.AsyncOpenAI, anthropic.AsyncAnthropic)
        self.oai: Any = oai(base_url=f"{url}/v1", api_key="sk-own", http_client=made[0])
        self.ant: Any = ant(base_url=url, api_key="sk-own", http_client=made[1])
        clients = {"httpx_client": self._clients[2], "httpx_async_client": self._async_clients[2]}
        self._genai = genai.Client(api_key="own", http_options=genai.types.HttpOptions(base_url=url, **clients))
        self.gem: Any = self._genai if sync else self._genai.aio

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for client in self._async_clients:
            if self._runner is None:
                asyncio.run(client.aclose())
            else:
                self._runner.run(client.aclose())


@contextmanager
def guarded_sdks(world: Inside, *, sync: bool = True, **options: Any) -> Iterator[GuardedSdks]:
    """Clients of team `search` and feature `chat` that are closed at the end of the block."""
    words = {"team": "search", "env": "prod", "feature": "chat", "guard": world.guard} | options
    if sync:
        clients = GuardedSdks(world.provider.origin, None, words)
        try:
            yield clients
        finally:
            clients.close()
    else:
        with asyncio.Runner() as runner:
            clients = GuardedSdks(world.provider.origin, runner, words)
            try:
                yield clients
            finally:
                clients.close()
