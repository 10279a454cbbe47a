"""What the innermost layer does with the reply of the application inside: read along, record, hand on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

from llmguard.core.exchange import Ending, Exchange
from llmguard.core.money import usd_string
from llmguard.forward.engine import Headers
from llmguard.forward.large import LargeReply
from llmguard.forward.relay import DRAIN_SECONDS, content_type, kept_type
from llmguard.forward.upstreams import HOLD_UP_TO
from llmguard.integrations.layers import own_headers, streams
from llmguard.integrations.wsgi.app import StartResponse, native
from llmguard.integrations.wsgi.body import close
from llmguard.integrations.wsgi.environ import Environ
from llmguard.runtime.process import ProcessService

_CREDIT = "x-llmguard-cost-usd"


class Tap:
    """The reply of one application. Its record is written before its terminal event or last byte goes on.

    A small whole reply is held until it is complete, so that its head can say what it cost. ``drains``: a stream whose
    caller hangs up is read on by another thread for half a minute; then it is ``draining``.
    """

    def __init__(self, runtime: ProcessService, x: Exchange, start_response: StartResponse, *, drains: bool) -> None:
        self._runtime = runtime
        self._x = x
        self._start_response = start_response
        self._drains = drains
        self.draining = False
        self._start: tuple[str, list[tuple[str, str]]] | None = None
        self._sent = False
        self._written: list[bytes] = []

    def reply(self, app: Any, environ: Environ) -> Iterable[bytes]:
        """Have ``app`` answer, and return the body for the server."""
        body: Iterable[bytes] = app(environ, self._note_start)
        try:
            return self._read(body)
        except BaseException:
            close(body)
            raise

    def _note_start(self, status: str, headers: list[tuple[str, str]], error: Any = None) -> Callable[[bytes], None]:
        if error is not None and self._sent:
            raise error[1].with_traceback(error[2])
        self._start = status, headers
        return self._written.append

    def _read(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """The head is known once the first chunk is there, at the latest."""
        x, source = self._x, iter(body)
        first = [] if self._start is not None else [next(source, b"")]
        if self._start is None:
            raise RuntimeError("the application answered without calling start_response")
        chunks = chain(self._written, first, source)
        status, pairs = self._start
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        x.answer(int(status[:3]), self._runtime.now())
        if x.tape is not None:
            x.tape.content_type = kept_type(headers)
        headers.extend(own_headers(x))
        if streams(x, int(status[:3]), headers):
            self._send_head([field for field in headers if field[0] != b"content-length"])
            return Tapped(self._stream(chunks), body, lambda: self._drains and self._read_on(chunks, body))
        return self._whole(headers, chunks, body)

    def _send_head(self, headers: Headers) -> None:
        assert self._start is not None
        self._sent = True
        self._start_response(self._start[0], native(headers))

    def _whole(self, headers: Headers, chunks: Iterator[bytes], body: Iterable[bytes]) -> Iterable[bytes]:
        x, parts, size = self._x, list[bytes](), 0
        for data in chunks:
            parts.append(data)
            size += len(data)
            if size > HOLD_UP_TO:
                self._send_head(headers)
                return Tapped(self._large(content_type(headers), chain(parts, chunks)), body)
        close(body)
        whole = b"".join(parts)
        x.whole(content_type(headers), whole, self._runtime.now())
        self._close(Ending.DONE)
        if x.cost is not None:
            headers.append((_CREDIT.encode(), usd_string(x.cost.total).encode()))
        self._send_head(headers)
        return [whole]

    def _large(self, kind: str, chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
        """A reply too large to hold flows on, one chunk behind, so that its record is written before its end."""
        seen, behind = LargeReply(), b""
        for data in chunks:
            seen.feed(data)
            if behind:
                yield behind
            behind = data
        seen.end(self._x, kind, self._runtime.now())
        self._close(Ending.DONE)
        yield behind

    def _stream(self, chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
        x, runtime, reader = self._x, self._runtime, self._x.reader
        assert reader is not None
        for data in chunks:
            out = x.feed(data, runtime.now()) if data else b""
            if x.due and (refusal := runtime.run(x.attend())) is not None:
                self._close(Ending.BUDGET_CUT)
                yield out + reader.cut(refusal, x.event_id)
                return
            if reader.finished:
                self._close(Ending.DONE)
                out += reader.flush()
            if out:
                yield out
        self._close(Ending.DONE)
        if tail := reader.flush():
            yield tail

    def _read_on(self, chunks: Iterator[bytes], body: Iterable[bytes]) -> bool:
        """Have a thread read the rest of a stream that nobody hears any more; False when there is no need to."""
        x, runtime, reader = self._x, self._runtime, self._x.reader
        if reader is None or x.event_id not in runtime.live:
            return False
        self.draining = True

        def read() -> None:
            end = runtime.now() + int(DRAIN_SECONDS * 1000)
            try:
                while not reader.finished and runtime.now() < end and (data := next(chunks, None)) is not None:
                    x.feed(data, runtime.now())
            finally:
                close(body)
                self._close(Ending.CALLER_GONE)

        threading.Thread(target=read, daemon=True).start()
        return True

    def _close(self, ending: Ending) -> None:
        self._runtime.close(self._x, ending)


class Tapped(Iterator[bytes]):
    """The chunks that go on, and the body that they come from, unless ``kept`` says that somebody reads it on."""

    def __init__(
        self,
        chunks: Generator[bytes, None, None],
        body: Iterable[bytes],
        kept: Callable[[], bool] = lambda: False,
    ) -> None:
        self._chunks = chunks
        self._body = body
        self._kept = kept
        self._closed = False

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """The server is done with it, or its caller gone. Idempotent."""
        if not self._closed:
            self._closed = True
            self._chunks.close()
            if not self._kept():
                close(self._body)
