"""A small HTTP/2 server over TLS for tests: answers every request by a function of its fields and body."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

Fields = list[tuple[bytes, bytes]]


@dataclass
class H2Request:
    fields: dict[bytes, bytes]
    body: bytes = b""


@dataclass
class H2Reply:
    """``pieces`` are sent as separate DATA frames; ``reset`` ends the stream with an error instead of its end."""

    fields: Fields
    pieces: list[bytes] = field(default_factory=list)
    reset: bool = False


@dataclass
class H2Server:
    port: int
    accepted: int = 0


@contextlib.asynccontextmanager
async def h2_server(answer: Callable[[H2Request], H2Reply | None], context: ssl.SSLContext) -> AsyncIterator[H2Server]:
    """``answer`` returns None to stay silent. The context must offer ALPN h2."""
    state = H2Server(0)
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        state.accepted += 1
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
            await _speak(reader, writer, answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
    assert [r for r in results if r is not None] == []


async def _speak(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[H2Request], H2Reply | None]
) -> None:
    config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    requests: dict[int, H2Request] = {}
    writer.write(connection.data_to_send())
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                requests[event.stream_id] = H2Request(dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                requests[event.stream_id].body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                _answer(connection, event.stream_id, answer(requests.pop(event.stream_id)))
        writer.write(connection.data_to_send())
        await writer.drain()


def _answer(connection: h2.connection.H2Connection, stream: int, reply: H2Reply | None) -> None:
    if reply is None:
        return
    connection.send_headers(stream, reply.fields)
    for piece in reply.pieces:
        for start in range(0, len(piece), connection.max_outbound_frame_size):
            connection.send_data(stream, piece[start : start + connection.max_outbound_frame_size])
    if reply.reset:
        connection.reset_stream(stream, 2)
    else:
        connection.end_stream(stream)
