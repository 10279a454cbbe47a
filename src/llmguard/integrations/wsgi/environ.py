"""A request as a WSGI server hands it over: its undecoded path, its headers, its body, and the caller behind it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

Environ = dict[str, Any]
Pairs = list[tuple[bytes, bytes]]

_RAW = ("RAW_URI", "REQUEST_URI")
_SAFE = "/!$&'()*+,;=:@-._~"
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")
_ASK_AGAIN = "waitress.client_disconnected"
_RDHUP = getattr(select, "POLLRDHUP", 0)
_PIECE = 64 * 1024


class BodyMissing(Exception):
    """The caller went away before its body was whole."""


def raw_path(environ: Environ) -> bytes:
    """The undecoded path below the mount point.

    From the request line where the server keeps it, else encoded again from what it decoded.
    """
    mount: str = environ.get("SCRIPT_NAME", "")
    for name in _RAW:
        line = environ.get(name)
        if line:
            path = _path_of(line)
            for prefix in (mount, quote(mount.encode("latin-1"), safe=_SAFE)):
                if path.startswith(prefix):
                    return path[len(prefix) :].encode("latin-1", "replace") or b"/"
    return quote(environ.get("PATH_INFO", "").encode("latin-1"), safe=_SAFE).encode() or b"/"


def _path_of(target: str) -> str:
    """The path of a request's target, which may be a whole URL (RFC 9112, section 3.2.2)."""
    path = target.partition("?")[0]
    if path.startswith("/") or "://" not in path:
        return path
    return "/" + path.partition("://")[2].partition("/")[2]


def decoded_path(environ: Environ) -> str:
    """The same path as routers see it."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace") or "/"


def header_pairs(environ: Environ) -> Pairs:
    """The request's headers, names in lower case."""
    pairs = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            pairs.append((name.replace("_", "-").lower().encode(), environ[name].encode("latin-1")))
    return pairs


def read_body(environ: Environ, limit: int) -> bytes:
    """The body, or one byte more than ``limit`` of it. Raises BodyMissing."""
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    if not length:
        chunked = environ.get("wsgi.input_terminated") or environ.get("HTTP_TRANSFER_ENCODING")
        return _read(stream, limit + 1) if chunked else b""
    wanted = min(int(length), limit + 1)
    body = _read(stream, wanted)
    if len(body) < wanted:
        raise BodyMissing
    return body


def _read(stream: Any, wanted: int) -> bytes:
    parts: list[bytes] = []
    while wanted > 0 and (part := stream.read(min(wanted, _PIECE))):
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


class SocketCaller:
    """A caller behind a socket that the server lets us see."""

    def __init__(self, sock: Any) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """The socket, for polling."""
        return int(self._socket.fileno())

    def gone(self) -> bool:
        """Whether the other end has closed. Bytes that wait are the next request, not a hang-up.

        Looked at beneath TLS, whose sockets cannot be peeked into.
        """
        number = self.fileno()
        if number < 0:
            return True
        with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as beneath:
            try:
                if not beneath.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    return True
            except BlockingIOError:
                return False
            except OSError:
                return True
        return bool(_RDHUP) and _half_closed(number)


def _half_closed(number: int) -> bool:
    poll = select.poll()
    poll.register(number, _RDHUP)
    return any(events & _RDHUP for _, events in poll.poll(0))


class AskedCaller:
    """A caller whose server answers whether it is still there.

    Waitress does so only when it is started with ``channel_request_lookahead`` above 0.
    """

    def __init__(self, disconnected: Callable[[], bool]) -> None:
        self.gone = disconnected

    def fileno(self) -> int:
        """Nothing to poll: whoever waits must ask now and then."""
        return -1


def caller_of(environ: Environ) -> SocketCaller | AskedCaller | None:
    """The caller's connection, None where the server shows nothing of it."""
    for name in _SOCKETS:
        if environ.get(name) is not None:
            return SocketCaller(environ[name])
    asked = environ.get(_ASK_AGAIN)
    return AskedCaller(asked) if callable(asked) else None
