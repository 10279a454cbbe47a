"""Opening a connection: resolve, check, try the addresses in order, shake hands. Nothing is sent yet."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import NoReturn

from llmguard.errors import UpstreamError
from llmguard.forward.connection import Connection, Owner
from llmguard.forward.dns import Endpoint, resolve
from llmguard.forward.options import Origin, Timeouts

# How long a closing TLS connection waits for the peer's own goodbye.
_TLS_SHUTDOWN_SECONDS = 2.0


async def open_connection(
    origin: Origin, timeouts: Timeouts, context: ssl.SSLContext | None, owner: Owner
) -> Connection:
    """A fresh connection to an origin. ``context`` is set for https only.

    Raises UpstreamError with ``sent`` False: 504 when it took too long, 502 for everything else.
    """
    sock = await _open_socket(origin, timeouts)
    loop = asyncio.get_running_loop()
    connection = Connection(loop, owner, sock, secure=context is not None)
    try:
        if context is None:
            await loop.create_connection(lambda: connection, sock=sock)
        else:
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=context,
                server_hostname=origin.host,
                ssl_handshake_timeout=timeouts.tls,
                ssl_shutdown_timeout=_TLS_SHUTDOWN_SECONDS,
            )
    except ssl.SSLCertVerificationError as error:
        _refuse(origin, f"has a certificate that is not trusted: {error.verify_message}", error)
    except ConnectionAbortedError as error:
        _refuse(origin, f"did not finish the TLS handshake within {timeouts.tls:g} s", error, status=504)
    except OSError as error:
        _refuse(origin, f"broke the TLS handshake: {error}", error)
    return connection


async def _open_socket(origin: Origin, timeouts: Timeouts) -> socket.socket:
    try:
        async with asyncio.timeout(timeouts.connect) as limit:
            endpoints = await resolve(origin.host, origin.port, internal=origin.internal)
            return await _first_that_answers(endpoints, limit)
    except TimeoutError as error:
        _refuse(origin, f"did not answer within {timeouts.connect:g} s", error, status=504)
    except OSError as error:
        _refuse(origin, f"cannot be reached: {error}", error)


async def _first_that_answers(endpoints: list[Endpoint], limit: asyncio.Timeout) -> socket.socket:
    """Try each address in turn, each with an even share of the time that is left."""
    loop = asyncio.get_running_loop()
    deadline = limit.when()
    for left in range(len(endpoints), 1, -1):
        share = None if deadline is None else (deadline - loop.time()) / left
        try:
            async with asyncio.timeout(share):
                return await _connect(endpoints[-left])
        except OSError:
            # TimeoutError is one of these. The last address, below, speaks for all.
            continue
    return await _connect(endpoints[-1])


async def _connect(endpoint: Endpoint) -> socket.socket:
    family, address = endpoint
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse(origin: Origin, reason: str, error: OSError, *, status: int = 502) -> NoReturn:
    raise UpstreamError(f"{origin.authority} {reason}", sent=False, status=status) from error
