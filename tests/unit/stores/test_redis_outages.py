"""How the store behaves when its server does not."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
import trustme

from llmguard.core.moves import Admitted, Again
from llmguard.errors import StoreUnavailable
from llmguard.stores.redis import AsyncRedisStore, RedisStore
from tests.support.quota import EMPTY, PREFIX, reserve, seconds, settle, warm
from tests.support.valkey import ValkeyServer


@pytest.fixture
def own() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def test_a_frozen_server_is_given_up_in_time_and_found_again(own: ValkeyServer) -> None:
    store = warm(own)
    store.apply([reserve("before")])
    own.freeze()
    try:
        assert seconds(lambda: store.apply([reserve("during")])) < 0.3  # on a connection that was open
        assert seconds(lambda: store.apply([reserve("during")])) < 0.5  # on a new one
    finally:
        own.thaw()
    (answer,) = store.apply([reserve("during")])
    assert isinstance(answer, Admitted)
    assert answer.levels[0].held == 200  # once, although it was sent three times
    store.close()


def test_the_asynchronous_store_gives_up_in_time_too(own: ValkeyServer) -> None:
    warm(own).close()

    async def calls() -> None:
        store = AsyncRedisStore(own.url)
        await store.apply([reserve("before")])
        own.freeze()
        start = time.monotonic()
        results = await asyncio.gather(
            *[store.apply([reserve(f"during-{i}", 1)]) for i in range(30)], return_exceptions=True
        )
        waited = time.monotonic() - start
        own.thaw()
        assert {type(result) for result in results} == {StoreUnavailable}
        assert waited < 0.3
        assert isinstance((await store.apply([reserve("after")]))[0], Admitted)
        await store.aclose()

    try:
        asyncio.run(calls())
    finally:
        own.thaw()


def test_a_dead_server_is_told_at_once_and_a_restarted_one_found_at_once(own: ValkeyServer) -> None:
    store = warm(own)
    own.kill()
    assert seconds(lambda: store.apply([reserve("a")])) < 0.2
    own.start()
    (answer,) = store.apply([reserve("a")])
    assert isinstance(answer, Again)
    assert answer.why == "cold"
    store.close()


def test_however_often_a_server_did_not_answer_it_is_found_again(own: ValkeyServer) -> None:
    """redis-py's own pool makes a hundred connections in its life, lost ones included."""
    store = warm(own)
    own.kill()
    for _ in range(120):
        seconds(lambda: store.apply([reserve("during")]))
    own.start()
    assert isinstance(store.apply([reserve("after")])[0], Again)
    store.close()


def test_a_broken_connection_is_tried_once_more(own: ValkeyServer) -> None:
    store = warm(own)
    store.apply([reserve("a")])
    with own.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert isinstance(store.apply([reserve("b")])[0], Admitted)
    store.close()


def test_a_server_without_the_library_is_given_it(own: ValkeyServer) -> None:
    store = warm(own)
    with own.client() as client:
        client.execute_command("FUNCTION", "FLUSH")
    assert isinstance(store.apply([reserve("a")])[0], Admitted)
    store.close()


def test_a_full_server_is_unavailable_and_nothing_is_half_done(own: ValkeyServer) -> None:
    store = warm(own)
    store.apply([reserve("a")])
    with own.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            store.apply([settle("a")])
        client.config_set("maxmemory", "0")
        assert client.hget(PREFIX + "b:usd|total", "settled") == b"0"
    assert store.apply([settle("a")])[0].changed is True  # type: ignore[union-attr]
    store.close()


def test_the_password_is_in_no_message() -> None:
    store = RedisStore("redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1 did not answer") as caught:
        store.apply([reserve("a")])
    assert "secret" not in str(caught.value)


def test_a_forked_process_makes_its_own_connections(own: ValkeyServer) -> None:
    store = warm(own)
    store.apply([reserve("parent")])
    child = os.fork()
    if child == 0:
        fine = isinstance(store.apply([reserve("child")])[0], Admitted)
        os._exit(0 if fine else 1)
    for number in range(20):
        store.apply([settle(f"{number}", 1)])
    assert os.waitpid(child, 0)[1] == 0
    (answer,) = store.apply([reserve("after")])
    assert isinstance(answer, Admitted)
    assert (answer.levels[0].settled, answer.levels[0].held) == (20, 300)
    store.close()


def test_many_calls_share_one_connection(own: ValkeyServer) -> None:
    warm(own).close()

    async def calls() -> None:
        store = AsyncRedisStore(own.url)
        answers = await asyncio.gather(*[store.apply([settle(f"{i:03}", i)]) for i in range(300)])
        with own.client() as client:
            assert client.info("clients")["connected_clients"] == 2
            assert client.hget(PREFIX + "b:usd|total", "settled") == str(sum(range(300))).encode()
        assert all(answer.changed for (answer,) in answers)  # type: ignore[union-attr]
        await store.aclose()

    asyncio.run(calls())


def test_the_asynchronous_store_finds_a_restarted_server(own: ValkeyServer) -> None:
    warm(own).close()

    async def calls() -> None:
        store = AsyncRedisStore(own.url)
        await store.apply([reserve("a")])
        own.kill()
        with pytest.raises(StoreUnavailable):
            await store.apply([reserve("b")])
        own.start()
        (answer,) = await store.apply([reserve("b")])
        assert isinstance(answer, Again)
        await store.aclose()

    asyncio.run(calls())


def test_a_caller_that_gives_up_leaves_the_others_their_answers(own: ValkeyServer) -> None:
    warm(own).close()

    async def calls() -> None:
        store = AsyncRedisStore(own.url)
        await store.apply([])
        impatient = asyncio.ensure_future(store.apply([settle("a", 1)]))
        patient = asyncio.ensure_future(store.apply([settle("b", 2)]))
        await asyncio.sleep(0)
        impatient.cancel()
        ((answer,),) = await asyncio.gather(patient)
        assert answer.changed is True  # type: ignore[union-attr]
        assert await store.unknown(["a", "b"]) == []
        await store.aclose()

    asyncio.run(calls())


def test_passwords_databases_and_tls_come_from_the_url() -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    with ValkeyServer(requirepass="secret") as server, authority.cert_pem.tempfile() as trusted:

        async def calls() -> None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(tls)
            door = await asyncio.start_server(partial(_forward, server.port), "127.0.0.1", 0, ssl=tls)
            port = door.sockets[0].getsockname()[1]
            store = AsyncRedisStore(f"rediss://:secret@127.0.0.1:{port}/3?ssl_ca_certs={trusted}", grace_ms=0)
            assert await store.load(lambda: EMPTY) is True
            assert isinstance((await store.apply([reserve("a")]))[0], Admitted)
            await store.aclose()
            stranger = AsyncRedisStore(f"rediss://:wrong@127.0.0.1:{port}/3?ssl_ca_certs={trusted}")
            with pytest.raises(StoreUnavailable, match="WRONGPASS"):
                await stranger.apply([reserve("b")])
            await stranger.aclose()
            door.close()

        asyncio.run(calls())
        with server.client(password="secret", db=3) as client:
            assert client.hget(PREFIX + "b:usd|total", "held") == b"100"


async def _forward(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A TLS door before a server that has none."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        sink.close()

    try:
        with suppress(OSError):
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
    finally:
        inner_writer.close()
        writer.close()
