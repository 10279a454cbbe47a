"""The part of a reader that is the same for every dialect that streams server-sent events."""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import Any, ClassVar

from llmguard.core import sse
from llmguard.core.call import ObjectRef
from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.providers.torn import TornObject

MAX_HELD = 256 * 1024
_HEAD = 4 * 1024
_WINDOW = 64 * 1024
_LONGEST_PAIR = 12
_TORN_TEXT = re.compile(
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?|\\(?:u[0-9a-fA-F]{0,3})?"
    rb"|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)


class Fate(Enum):
    """What becomes of an event: it goes to the caller, never does, or waits (with all after it) for `flush`."""

    PASS = auto()
    DROP = auto()
    HOLD = auto()


PASS, DROP, HOLD = Fate
"""The same as bare names: a member looked up in its enumeration costs as much as a search."""


class Flow:
    """An event too large to be held back whole, or a body that is no event stream at all (``raw``).

    ``head`` and ``window`` are its first and latest bytes, so that its usage can still be found.
    """

    __slots__ = ("_kept", "_torn", "head", "raw", "window")

    def __init__(self, head: bytes, *, raw: bool = False) -> None:
        self.head = head
        self.window = b""
        self.raw = raw
        self._kept = b""
        self._torn = TornObject()

    def take(self, data: bytes) -> bytes:
        """The bytes that go on: all but a few at the end, so that no character or escape is broken by a cut."""
        self.window = (self.window + data)[-_WINDOW:]
        if self.raw:
            return data
        data = self._kept + data
        at = _whole_text(data)
        self._kept = data[at:]
        self._torn.feed(data[:at] if self._torn.started else data[max(data.find(b"{"), 0) : at])
        return data[:at]

    def rest(self) -> bytes:
        """The few bytes that were kept."""
        kept, self._kept = self._kept, b""
        return kept

    def end(self, member: bytes) -> bytes:
        """End the event under way, with ``member`` added to its object; empty when there is nothing to end."""
        return self._torn.end(member)


def _whole_text(data: bytes) -> int:
    """The last index before which no UTF-8 character, escape or surrogate pair is broken."""
    torn = _TORN_TEXT.search(data, max(len(data) - _LONGEST_PAIR, 0))
    return torn.start() if torn else len(data)


class SSEReader:
    """Reads one reply event by event; the base of the dialects' readers (see :class:`llmguard.core.ports.Reader`).

    An event that is not whole yet is held back: no parser acts on it before its blank line, so the caller loses no
    time, a stop never leaves half an event behind, and the terminal event is held from its first byte. At most
    ``MAX_HELD`` bytes are held; beyond that the bytes flow on and only the last ones are kept for a look.

    A subclass implements the methods from :meth:`_event` to :meth:`_overlong_end`. It decodes every event into a typed
    struct of the few fields that count: measured on events of 230 bytes, that costs as much as searching them for two
    markers, and gives the text's true length and everything else at once. ``USAGE_KEY`` is the quoted name of the
    usage object; ``ERROR_ANYWHERE`` says that the SDKs take any event with the member from :meth:`_error` for an error,
    else the one from :meth:`_ending` follows an event that was ended in its middle.
    """

    USAGE_KEY: ClassVar[bytes] = b'"usage"'
    ERROR_ANYWHERE: ClassVar[bool] = True

    __slots__ = (
        "_back",
        "_drop_lf",
        "_flow",
        "_flushed",
        "_holding",
        "_opened",
        "_pieces",
        "_plain",
        "_quarters",
        "_tail",
        "created",
        "failed",
        "finish_reason",
        "finished",
        "generated",
        "model",
        "service_tier",
        "usage",
    )

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.finish_reason: str | None = None
        self.generated = 0
        self.finished = False
        self.failed = False
        self.created: list[ObjectRef] = []
        self._pieces = 0
        self._quarters = 0
        self._tail = bytearray()
        self._back = bytearray()
        self._flow: Flow | None = None
        self._opened = False
        self._plain = True
        self._holding = False
        self._flushed = False
        self._drop_lf = False

    # What a dialect fills in.

    def _event(self, data: bytes) -> Fate:
        """Read the data of one event and say what becomes of it."""
        raise NotImplementedError

    def _reply(self, body: bytes) -> None:
        """Read a reply that is one document."""
        raise NotImplementedError

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        """Events that end the stream in mid-answer."""
        raise NotImplementedError

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        """An encoded member ``"name":value`` that makes an event an error in this dialect."""
        raise NotImplementedError

    def _seen(self, usage: dict[str, Any]) -> None:
        """The event under way has this usage object already: all there is when its end never comes."""

    def _overlong(self, head: bytes) -> Fate:
        """Judge an event larger than ``MAX_HELD`` by its first bytes; it cannot be dropped any more."""
        return PASS

    def _overlong_end(self, head: bytes, usage: dict[str, Any] | None) -> None:
        """Such an event has ended, with this ``usage`` object near its end."""

    def _text(self, text: str, per_token: int = 4) -> None:
        """Count a piece of generated text.

        A token is taken as ``per_token`` characters of ASCII (four of prose, two of JSON), or as one Chinese or
        Japanese character (three bytes), and a piece as one token at least, because most providers send a token at a
        time. Of 849 recorded chat answers without hidden reasoning the estimate is 1.1 times the truth in the median,
        and over half of it for 95 in 100.
        """
        length = len(text)
        if not text.isascii():
            octets = len(text.encode("utf-8", "replace"))
            length = octets + (octets - length) // 2
        self._pieces = pieces = self._pieces + 1
        self._quarters = quarters = self._quarters + length * 4 // per_token
        self.generated = pieces if pieces * 4 > quarters else quarters // 4

    # The protocol.

    def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Read a reply that arrived in one piece, by its own first bytes where its media type is wrong.

        Error replies cost nothing: only a status below 400 is read.
        """
        if status >= 400:
            return
        if content_type.startswith("text/event-stream") or body.startswith((b"data:", b"event:")):
            self.feed(body)
            self.flush()
        else:
            self._reply(body)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return those that may go out: the same object where nothing is held."""
        blank = -2 if data.endswith(b"}\n\n") else -4 if data.endswith(b"}\r\n\r\n") else 0
        if blank and self._plain:
            start = data.find(b"{")
            if data.find(b"\n", start, blank) < 0:
                self._opened = True
                fate = self._event(data[start:blank])
                return data if fate is PASS else self._settle(data, fate)
        return self._step(data)

    def flush(self) -> bytes:
        """The bytes held back; what comes after is passed on unread."""
        self._flushed = True
        self._plain = False
        out = bytes(self._back) + (self._flow.rest() if self._flow else b"") + bytes(self._tail)
        self._back.clear()
        self._tail.clear()
        return out

    def cut(self, refuse: Refuse, request_id: str) -> bytes:
        """End the stream; an event that is not whole is dropped, or made an error where a part of it is out."""
        if self.finished:
            return self.flush()
        self._tail.clear()
        flow, self._flow = self._flow, None
        back = self.flush()
        if flow is None:
            return back if self._holding else self._ending(refuse, request_id)
        if flow.raw:
            return b"\n{" + self._error(refuse, request_id) + b"}\n"
        end = flow.end(self._error(refuse, request_id))
        is_error = end and self.ERROR_ANYWHERE
        return back + end + b"\n\n" + (b"" if is_error else self._ending(refuse, request_id))

    # How bytes become events.

    def _step(self, data: bytes) -> bytes:
        if self._flushed:
            return data
        if self._drop_lf:
            self._drop_lf = False
            data = data.removeprefix(b"\n")
        out = self._collect(data) if self._flow is None else self._flowing(self._flow, data)
        self._plain = not (self._tail or self._holding or self._flow or self._drop_lf)
        return out

    def _collect(self, data: bytes) -> bytes:
        """Join the event under way with ``data``, read the events that are whole, keep the rest."""
        tail = self._tail
        if not self._opened and len(tail) < 8 and bytes(tail + data[:8]).lstrip()[:1] in (b"{", b"["):
            data = bytes(tail) + data
            tail.clear()
            self._flow = Flow(b"", raw=True)
            return self._flowing(self._flow, data)
        before = bytes(tail[1 - sse.LONGEST_END :])
        end = sse.last_end(before + data if before else data) - len(before)
        if end <= 0:
            tail += data
            return self._rest()
        block = bytes(tail) + data[:end] if tail else data[:end]
        tail[:] = data[end:]
        out = self._block(block)
        if not tail:
            return out
        self._drop_lf = False
        return out + self._rest()

    def _block(self, block: bytes) -> bytes:
        """Read whole events."""
        events = sse.split(block)
        fates = [self._read(event) for event in events]
        if not self._holding and all(fate is PASS for fate in fates):
            return block
        return b"".join(self._settle(event, fate) for event, fate in zip(events, fates, strict=True))

    def _read(self, event: bytes) -> Fate:
        data = sse.data(event)
        if not data:
            return PASS
        self._opened = True
        return self._event(data)

    def _settle(self, event: bytes, fate: Fate) -> bytes:
        """Do with an event what its fate says; the bytes of it that go out now."""
        self._plain = False
        self._drop_lf = fate is DROP and event.endswith(b"\r")
        if fate is HOLD:
            self._holding = True
        elif fate is DROP:
            event = event[: len(event) - len(event.lstrip(b"\r\n"))]
        return self._pass(event)

    def _pass(self, data: bytes) -> bytes:
        """Let bytes go to the caller, or behind what is held back; what is too much goes out at its front."""
        if not self._holding:
            return data
        self._back += data
        excess = len(self._back) - MAX_HELD
        if excess <= 0:
            return b""
        out = bytes(self._back[:excess])
        del self._back[:excess]
        return out

    def _rest(self) -> bytes:
        """Look at the event under way, and let it flow when it has become too large to hold."""
        if self._tail.endswith((b"}", b"}\n")):
            usage = usage_in(bytes(self._tail), self.USAGE_KEY)
            if usage is not None:
                self._seen(usage)
        if len(self._tail) <= MAX_HELD:
            return b""
        event = bytes(self._tail)
        self._tail.clear()
        self._opened = True
        self._flow = Flow(event[:_HEAD])
        self._holding = self._holding or self._overlong(self._flow.head) is HOLD
        return self._pass(self._flow.take(event))

    def _flowing(self, flow: Flow, data: bytes) -> bytes:
        if flow.raw:
            self._quarters += len(data)
            self.generated = self._quarters // 4
            return flow.take(data)
        before = flow.window[1 - sse.LONGEST_END :]
        end = sse.first_end(before + data) - len(before)
        if end <= 0:
            return self._pass(flow.take(data))
        out = self._pass(flow.take(data[:end]) + flow.rest())
        self._flow = None
        self._overlong_end(flow.head, usage_in(flow.window, self.USAGE_KEY))
        return out + self._collect(data[end:]) if end < len(data) else out


def usage_in(text: bytes, key: bytes) -> dict[str, Any] | None:
    """The last complete object with the name ``key`` (quoted) in a piece of JSON."""
    at = text.rfind(key)
    while at >= 0:
        value = text[at + len(key) :].lstrip(b" \t\r\n:").decode("utf-8", "replace")
        if value.startswith("{"):
            try:
                usage: dict[str, Any] = json.JSONDecoder().raw_decode(value)[0]
            except ValueError:
                return None
            return usage
        at = text.rfind(key, 0, at)
    return None
