"""Requests through layers, in one event loop: what a hang-up, a failure in between and an audit layer lead to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmguard.core.moves import Done, Trip
from llmguard.guard import Guard
from llmguard.integrations.asgi import Audit, ContextMiddleware, Meter, Quota
from llmguard.runtime.context import current
from tests.support.inside import configuration, ledger_rows
from tests.support.replies import chat_stream

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
EVENTS = chat_stream(4, USAGE)
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50, "stream": True}
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    made = Guard(configuration(tmp_path, "http://127.0.0.1:9", audit={"payloads": "full"}))
    yield made
    made.close()


@asynccontextmanager
async def closing(guard: Guard) -> AsyncIterator[None]:
    await guard.service()
    try:
        yield
    finally:
        await guard.aclose()


class Client:
    """A caller that hangs up when it is told to."""

    def __init__(self, body: Any = BODY) -> None:
        self._body: bytes | None = json.dumps(body).encode()
        self.leaves = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def call(self, app: Any) -> None:
        path = "/v1/chat/completions"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        await app(scope | {"headers": [(b"host", b"test")]}, self.receive, self.send)


def row_of(guard: Guard) -> dict[str, Any]:
    (row,) = ledger_rows(guard.config.ledger)
    return row


def test_a_stream_whose_caller_leaves_is_drained_where_that_is_asked_for(guard: Guard) -> None:
    async def run() -> None:
        client = Client()

        async def upstream(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(START)
            await send({"type": "http.response.body", "body": EVENTS[0], "more_body": True})
            client.leaves.set()
            listening = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for event in EVENTS[1:]:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            assert not listening.done(), "the application is not to know"
            listening.cancel()

        async with closing(guard):
            await client.call(Quota(upstream, guard=guard, on_disconnect="drain"))
        assert b"".join(message.get("body", b"") for message in client.sent).startswith(EVENTS[0])
        assert EVENTS[-1] not in [message.get("body") for message in client.sent]

    asyncio.run(run())
    row = row_of(guard)
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("provider", 1_000, 100)


def test_a_request_that_is_over_before_its_head_is_answered_499(guard: Guard) -> None:
    async def run() -> None:
        client, closed = Client(), asyncio.Event()

        async def upstream(scope: Any, receive: Any, send: Any) -> None:
            client.leaves.set()
            try:
                await asyncio.Event().wait()
            finally:
                closed.set()

        async with closing(guard):
            await client.call(Quota(upstream, guard=guard))
        assert closed.is_set()
        assert [message.get("status") for message in client.sent] == [499, None]

    asyncio.run(run())
    assert row_of(guard)["usage_source"] == "estimated"


def test_what_an_application_does_after_its_reply_is_not_the_callers_to_end(guard: Guard) -> None:
    async def run() -> bool:
        client, done = Client(), asyncio.Event()

        async def upstream(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send({"type": "http.response.body", "body": b"".join(EVENTS)})
            client.leaves.set()  # servers say so when a reply is complete
            for _ in range(10):
                await asyncio.sleep(0)
            done.set()

        async with closing(guard):
            await client.call(Quota(upstream, guard=guard))
        return done.is_set()

    assert asyncio.run(run())
    assert row_of(guard)["usage_source"] == "provider"


def test_an_application_that_fails_behind_somebody_who_ends_its_reply_has_failed(guard: Guard) -> None:
    async def run() -> None:
        client = Client()

        async def upstream(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send({"type": "http.response.body", "body": EVENTS[0], "more_body": True})
            raise RuntimeError("the provider's connection broke")

        class Ending:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                try:
                    await self.app(scope, receive, send)
                except RuntimeError:
                    await send({"type": "http.response.body", "body": b""})
                    client.leaves.set()
                    await asyncio.sleep(0)
                    raise

        async with closing(guard):
            with pytest.raises(RuntimeError, match="broke"):
                await client.call(Quota(Ending(Meter(upstream, guard=guard)), guard=guard))

    asyncio.run(run())
    engine = sa.create_engine(guard.config.ledger)
    with engine.connect() as connection:
        said = connection.execute(sa.text("SELECT interrupted FROM llmguard_entries")).scalars().all()
    engine.dispose()
    assert said == ["upstream_failed"]


def test_somebody_between_the_layers_who_answers_costs_nothing(guard: Guard) -> None:
    async def run() -> None:
        client = Client()

        class Bouncer:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send(START | {"status": 418})
                await send({"type": "http.response.body", "body": b""})

        async with closing(guard):
            await client.call(Quota(Bouncer(Meter(Bouncer(None), guard=guard)), guard=guard))
            service = guard.running()
            assert service is not None
            assert not service.live
        assert client.sent[0]["status"] == 418

    asyncio.run(run())
    assert ledger_rows(guard.config.ledger) == []


def test_an_audit_layer_alone_keeps_what_was_said_and_records_no_cost(guard: Guard) -> None:
    async def run() -> None:
        client = Client(BODY | {"stream": False})

        async def upstream(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"answer": 42}'})

        async with closing(guard):
            await client.call(Audit(upstream, guard=guard))
        assert client.sent[1]["body"] == b'{"answer": 42}'

    asyncio.run(run())
    assert ledger_rows(guard.config.ledger) == []
    engine = sa.create_engine(guard.config.ledger)
    with engine.connect() as connection:
        (kept,) = connection.execute(sa.text("SELECT * FROM llmguard_payloads")).mappings()
    engine.dispose()
    assert "42" in str(dict(kept))


def test_all_doors_of_a_process_share_one_memory_and_all_of_a_loop_one_service(guard: Guard) -> None:
    async def run() -> None:
        async with closing(guard):
            services = await asyncio.gather(*[guard.service() for _ in range(5)])
            assert len(set(map(id, services))) == 1
            trip = Trip("told:once", 1 << 50)
            first = await asyncio.to_thread(lambda: guard.process().ask(trip))
            second: Any = services[0].link.ask(trip)
            assert isinstance(first, Done)
            assert (first.changed, second.changed) == (True, False)

    asyncio.run(run())

    async def another_loop() -> int:
        async with closing(guard):
            service = guard.running()
            assert service is not None
            return id(service)

    assert asyncio.run(another_loop()) is not None


def test_whoever_asks_first_for_a_service_may_go_away(guard: Guard) -> None:
    async def run() -> None:
        first = asyncio.create_task(guard.service())
        second = asyncio.create_task(guard.service())
        await asyncio.sleep(0)
        first.cancel()
        assert await second is guard.running()
        await guard.aclose()
        assert guard.running() is None

    asyncio.run(run())


def test_the_context_of_a_request_is_a_tree_of_its_own(guard: Guard) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current())

    async def run() -> None:
        attributed = ContextMiddleware(app, guard=guard, team="search", attribution=lambda scope: {"end_user": "ann"})
        signer = guard.signer()
        for _ in range(2):
            await attributed({"type": "http", "headers": []}, None, None)  # type: ignore[arg-type]
        from llmguard.core.signed import HTTP, Signed
        from llmguard.runtime.ids import now_ms

        genuine = signer.sign(Signed(team="other", feature="batch", tree_id="tree"), HTTP, now_ms()).encode()
        for header in (genuine, b"forged"):
            headers = [(b"x-llmguard-context", header)]
            await attributed({"type": "http", "headers": headers}, None, None)  # type: ignore[arg-type]
        assert current().team is None

    asyncio.run(run())
    assert [(at.team, at.end_user, at.feature) for at in seen] == [
        ("search", "ann", None),
        ("search", "ann", None),
        ("search", "ann", "batch"),
        ("search", "ann", None),
    ]
    assert seen[2].tree_id == "tree"
    assert len({at.tree_id for at in seen}) == 4


def test_a_name_that_is_none_is_said_when_the_middleware_is_made() -> None:
    with pytest.raises(ValueError, match="team='': write 1 to 128 printable characters"):
        ContextMiddleware(ContextMiddleware(None), team="")  # type: ignore[arg-type]
