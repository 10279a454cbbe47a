"""A provider that costs next to nothing: answers every chat call with the same prepared bytes.

Run as ``python -m benchmarks.upstream PORT``; serves until SIGTERM. Which reply is asked for stands in the body
(``"stream":true``), as with the real API.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast

import httptools
import uvloop

from benchmarks.messages import stream_reply, whole_reply

_WHOLE = whole_reply().writes[0]
_STREAM = stream_reply().writes


class Provider(asyncio.Protocol):
    """One connection. A stream's chunks leave one per turn of the loop, so that they arrive one by one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._streaming = False
        self._complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._complete:
            self._complete = False
            self._answer()

    def on_body(self, body: bytes) -> None:
        if b'"stream":true' in body:
            self._streaming = True

    def on_message_complete(self) -> None:
        self._complete = True

    def _answer(self) -> None:
        if self._streaming:
            self._streaming = False
            self._write_chunk(0)
        else:
            self._transport.write(_WHOLE)

    def _write_chunk(self, index: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_STREAM[index])
        if index + 1 < len(_STREAM):
            self._loop.call_soon(self._write_chunk, index + 1)


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=1024)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
