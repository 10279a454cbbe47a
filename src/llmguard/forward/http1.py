"""HTTP/1.1 as a client speaks it, without any I/O: writing request heads and framing replies.

Both classes take and give bytes only, so that an asyncio protocol and a blocking socket can share them. Framing is
llhttp's strict mode plus the rules it leaves open; the grammar is RFC 9112.
"""

from __future__ import annotations

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llmguard.forward.engine import Fields, Headers

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200

# Bytes read in a row that yield no body: a head, or trailers and chunk extensions without end. Twice the head's limit
# because this also counts the blanks and the interim replies around the fields, which are not part of it.
_MAX_BARREN_BYTES = 2 * MAX_HEAD_BYTES

_METHODS = {m: m.encode() + b" " for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_WITH_LENGTH = frozenset({"POST", "PUT", "PATCH"})
_TARGET = re.compile(rb'/[!"$-~]*')
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_FIELDS = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"te", b"trailer"}
    | {b"expect", b"proxy-connection", b"proxy-authorization"}
)
_BREAKS = b"\r\n\0"
_MAX_KNOWN_NAMES = 1024
_MAX_KNOWN_BLOCKS = 256
_FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"content-type"})
_MAX_LENGTH_DIGITS = 40
_NO_BODY = frozenset({204, 304})


class RequestEncoder:
    """Writes request heads for one origin.

    Names are checked once and remembered, and so are whole blocks of fields, because a caller's calls have the same.
    """

    __slots__ = ("_blocks", "_known", "_version_and_host")

    def __init__(self, authority: str) -> None:
        self._version_and_host = b" HTTP/1.1\r\nhost: " + authority.encode("ascii")
        self._known: set[bytes] = set()
        self._blocks: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}

    def head(self, method: str, target: bytes, headers: Fields, length: int) -> bytes:
        """The head of a request with a body of ``length`` bytes.

        Raises ValueError for a method, target, name or value that could change where the request ends or who it is
        for, and for a field that only the engine may write.
        """
        if method not in _METHODS:
            raise ValueError(f"method {method!r} is not forwarded")
        if not _TARGET.fullmatch(target):
            raise ValueError("a request target starts with / and holds only visible ASCII without #")
        fields = tuple(headers)
        block = self._blocks.get(fields) or self._block(fields)
        end = b"\r\ncontent-length: %d\r\n\r\n" % length if length or method in _WITH_LENGTH else b"\r\n\r\n"
        return b"".join((_METHODS[method], target, block, end))

    def _block(self, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
        """The head between target and length, checked: values all at once, because a call has a dozen."""
        known = self._known
        for name, _ in headers:
            if name not in known:
                self._check_name(name)
        block = b"\r\n".join([self._version_and_host, *[b": ".join(field) for field in headers]])
        if len(block) - len(block.translate(None, _BREAKS)) != 2 * len(headers) + 2:
            raise ValueError("a header value holds a line break or NUL")
        if len(self._blocks) >= _MAX_KNOWN_BLOCKS:
            self._blocks.clear()
        self._blocks[headers] = block
        return block

    def _check_name(self, name: bytes) -> None:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"header name {name!r} is not a token")
        if name.lower() in _OWN_FIELDS:
            raise ValueError(f"header {name!r} is written by the engine")
        if len(self._known) < _MAX_KNOWN_NAMES:
            self._known.add(name)


class ResponseFramer:
    """Frames the replies on one connection, one after another.

    Call :meth:`start` for every request, :meth:`feed` for every read, :meth:`eof` when the peer has closed. The same
    bytes give the same answer however they are cut. Interim replies are skipped; trailers and chunk extensions are
    dropped; content codings are left alone.

    ``head_done``: ``status``, ``headers`` (names in lower case), ``length`` (as announced, else None) and
    ``event_stream`` are set. ``done``: the body was complete. ``reusable``: it was, and the connection may carry
    another request. ``fault``: what broke the protocol; body bytes returned before it are good.
    """

    __slots__ = (
        "_cut",
        "_expects_body",
        "_fed",
        "_interim",
        "_keep_alive",
        "_parser",
        "_pieces",
        "_transfer_encoding",
        "_until_eof",
        "done",
        "event_stream",
        "fault",
        "head_done",
        "headers",
        "length",
        "on_body",
        "status",
    )

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        self.start("GET")

    def start(self, method: str) -> None:
        """Make ready for the reply to a request with this method."""
        self._expects_body = method != "HEAD"
        self._fed = 0
        self._cut = -1
        self._interim = False
        self._keep_alive = False
        self._transfer_encoding: bytes | None = None
        self._until_eof = False
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.event_stream = False
        self.head_done = False
        self.done = False
        self.fault: str | None = None

    @property
    def reusable(self) -> bool:
        return self.done and self._keep_alive

    def feed(self, data: bytes) -> bytes:
        """Take what was read; return the body bytes in it, in one piece."""
        if not self._fed and not data.startswith(b"H"):
            # llhttp would also take RTSP and ICE, and blank lines in front.
            self.fault = "does not begin with HTTP/"
            return b""
        self._fed += len(data)
        pieces = self._pieces
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._broken(str(error))
        except HttpParserUpgrade:
            self._broken("switches protocols")
        if self._cut >= 0:
            del pieces[self._cut :]
            self._keep_alive = False
        if not pieces:
            if self._fed > _MAX_BARREN_BYTES and not self.done:
                self._broken("has a head or trailer that is too large")
            return b""
        self._fed = 1
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def eof(self) -> None:
        """The peer has closed in an orderly way: the correct end of a body without a length, else a fault."""
        if self.done:
            self._keep_alive = False
        elif self._until_eof:
            self.done = True
        elif self.fault is None:
            self.fault = "ends in the middle of its body" if self.head_done else "ends before its head does"

    def _broken(self, reason: str) -> None:
        self._keep_alive = False
        if not self.done and self.fault is None:
            self.fault = reason
            if not self.head_done:
                self._cut = 0

    # The rest is called by the parser. Nothing here may raise: httptools would wrap it in an error of its own.

    def on_message_begin(self) -> None:
        if self.done and self._cut < 0:
            self._cut = len(self._pieces)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            # A trailer. One that names a framing field would confuse llhttp about the next reply.
            self._keep_alive = False
            return
        name = name.lower()
        self.headers.append((name, value))
        if name in _FRAMING_FIELDS:
            self._note(name, value)

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"content-type":
            self.event_stream = value[:17].lower() == b"text/event-stream"
        elif name == b"content-length":
            if len(value) > _MAX_LENGTH_DIGITS:
                self._broken("has an overlong Content-Length")
            else:
                self.length = int(value)
        elif self._transfer_encoding is not None:
            self._broken("has two Transfer-Encoding fields")
        else:
            self._transfer_encoding = value.strip().lower()

    def on_headers_complete(self) -> None:
        if self.done or self.fault is not None:
            return
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            self._interim_head(status)
            return
        reason = self._head_fault(status)
        if reason is not None:
            self._broken(reason)
            return
        self.status = status
        self.head_done = True
        self._keep_alive = parser.should_keep_alive()
        if not self._expects_body:
            # llhttp cannot be told that this was a HEAD, so what it finds from here on is not to be trusted.
            self.done = True
            self._keep_alive = False
            self._cut = len(self._pieces)
        else:
            self._until_eof = self.length is None and self._transfer_encoding is None and status not in _NO_BODY

    def _interim_head(self, status: int) -> None:
        if status < 100 or status == 101:
            self._broken(f"has status {status}, which was not asked for")
        elif self.length is not None or self._transfer_encoding is not None:
            self._broken("is interim and yet has a body")
        self._interim = True
        self.headers = []
        self.event_stream = False

    def _head_fault(self, status: int) -> str | None:
        version = self._parser.get_http_version()
        coding = self._transfer_encoding
        if version not in ("1.1", "1.0"):
            return f"is HTTP/{version}"
        if status > 599:
            return f"has status {status}"
        if coding is not None and (coding != b"chunked" or version == "1.0"):
            return "has a transfer coding other than chunked, or one in HTTP/1.0"
        if len(self.headers) > MAX_HEADERS:
            return f"has more than {MAX_HEADERS} header fields"
        if self._fed > MAX_HEAD_BYTES and sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD_BYTES:
            return "has a head that is too large"
        return None

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif self.head_done:
            self.done = True
