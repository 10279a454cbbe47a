"""What Anthropic's Messages API answers: usage, streamed events, and errors in its shape."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llmguard.core import sse
from llmguard.core.call import ObjectRef
from llmguard.core.decision import Refuse
from llmguard.core.money import AT_PLACE
from llmguard.core.usage import Usage
from llmguard.providers.base import encode, llmguard_object
from llmguard.providers.overlong import usage_in
from llmguard.providers.stream import Fate, SSEReader

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANYWHERE = (None, "", "global", "not_available")
"""Values of `inference_geo` that bind a call to no place."""


def error_body(refuse: Refuse, request_id: str) -> bytes:
    """An error reply, also the data of an `error` event. The SDK shows ``code`` as the exception's `error_code`."""
    return b"{%b}" % _error_members(refuse, request_id)


def _error_members(refuse: Refuse, request_id: str) -> bytes:
    details = {"error_code": refuse.code}
    if refuse.param is not None:
        details["param"] = refuse.param
    error = {
        "type": _ERROR_TYPES.get(refuse.status, "invalid_request_error" if refuse.status < 500 else "api_error"),
        "message": refuse.message,
        "details": details,
        "llmguard": llmguard_object(refuse, request_id),
    }
    return b'"type":"error","error":%b,"request_id":%b' % (encode(error), encode(request_id))


class _Delta(msgspec.Struct, gc=False):
    """Values are checked where they are read, so that a strange one costs nothing but itself."""

    text: Any = None
    partial_json: Any = None
    thinking: Any = None
    stop_reason: Any = None
    container: Any = None


class _Message(msgspec.Struct):
    model: Any = None
    stop_reason: Any = None
    usage: Any = None
    container: Any = None
    content: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: _Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw()
    message: _Message | None = None
    usage: Any = None


_PASS = Fate.PASS
_event = msgspec.json.Decoder(_Event).decode
_message = msgspec.json.Decoder(_Message).decode


def usage_of(reported: dict[str, Any]) -> Usage:
    """Usage in llmguard's convention: Anthropic's `input_tokens` leaves out what was read from or put into the cache.

    With server tools `iterations` lists each round; the totals beside it are the sums, so they count. Only what a
    compaction of the context used is not in them (SDK, `BetaUsage.iterations`).
    """
    iterations = reported.get("iterations")
    usage = _usage_of(reported)
    for one in iterations if type(iterations) is list else ():
        if type(one) is dict and one.get("type") == "compaction":
            usage = _sum(usage, _usage_of(one))
    return usage


def _usage_of(reported: dict[str, Any]) -> Usage:
    read, written = _count(reported, "cache_read_input_tokens"), _count(reported, "cache_creation_input_tokens")
    lifetimes = reported.get("cache_creation")
    details = reported.get("output_tokens_details")
    tools = reported.get("server_tool_use")
    return Usage(
        input_tokens=(_count(reported, "input_tokens") or 0) + (read or 0) + (written or 0),
        output_tokens=_count(reported, "output_tokens") or 0,
        cached_input_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_count(details, "thinking_tokens") if type(details) is dict else None,
        cache_write_1h_tokens=_count(lifetimes, "ephemeral_1h_input_tokens") if type(lifetimes) is dict else None,
        web_searches=_count(tools, "web_search_requests") if type(tools) is dict else None,
    )


def _sum(usage: Usage, more: Usage) -> Usage:
    """Both together; what only one of them reports stands."""
    both = {}
    for name in Usage.__struct_fields__:
        one, other = getattr(usage, name), getattr(more, name)
        both[name] = one if other is None else (one or 0) + other
    return Usage(**both)


def _word(value: object) -> str | None:
    return value if type(value) is str else None


def tier_word(speed: str | None, place: str | None) -> str | None:
    """The tier of a call by its `speed` and its `inference_geo`; wherever it may be served, that says nothing."""
    return speed if place in _ANYWHERE else f"{speed or ''}{AT_PLACE}{place}"


def _count(reported: dict[str, Any], name: str) -> int | None:
    value = reported.get(name)
    return value if type(value) is int and value >= 0 else None


class MessagesReader(SSEReader):
    """Reads one reply. Usage comes with `message_start` and again, final and cumulative, with `message_delta`.

    A stream that is cut ends with the API's own `error` event and nothing else. The SDKs raise it as an exception that
    has the refusal in its body, so nobody takes the text so far for the whole answer; a block ended by us with
    `content_block_stop` would hand the caller a tool call with half its arguments.
    """

    TERMINAL = re.compile(rb"[\r\n]*(?:event: ?(?:message_stop|error)|data: ?\[)")
    ERROR_NAME = b"event: error\n"

    __slots__ = ("_asked_place", "_reported")

    def __init__(self, asked_place: str | None = None) -> None:
        """``asked_place`` is where the caller wants to be served; it counts where the reply names no place."""
        super().__init__()
        self._asked_place = asked_place
        self._reported: dict[str, Any] = {}

    def _event(self, data: bytes) -> Fate:
        try:
            event = _event(data)
        except (ValueError, RecursionError):
            return _PASS
        delta = event.delta
        if delta is None or event.type != "content_block_delta":
            return self._rare(event, delta)
        text = delta.text or delta.partial_json or delta.thinking
        if text and type(text) is str:
            self._text(text)
        return _PASS

    def _rare(self, event: _Event, delta: _Delta | None) -> Fate:
        if event.type == "message_start" and event.message is not None:
            self.model = _word(event.message.model)
            self._merge(event.message.usage)
            self._container(event.message.container)
        elif event.type == "content_block_start":
            self._files(event.content_block)
        elif event.type == "message_delta":
            if delta is not None:
                self.finish_reason = _word(delta.stop_reason) or self.finish_reason
                self._container(delta.container)
            self._merge(event.usage)
            self.usage = usage_of(self._reported)
        elif event.type in ("message_stop", "error"):
            self.finished = True
            self.failed = event.type == "error"
            return Fate.HOLD
        return _PASS

    def _reply(self, body: bytes) -> None:
        try:
            message = _message(body)
        except (ValueError, RecursionError):
            return
        self.model = _word(message.model)
        self.finish_reason = _word(message.stop_reason)
        self._container(message.container)
        if type(message.usage) is dict:
            self._files(message.content)
            self.usage = usage_of(message.usage)
            self._note_tier(message.usage)

    def _overlong_end(self, head: bytes, window: bytes) -> Fate:
        if b'"message_' in head[:200]:
            self._merge(usage_in(window, self.USAGE_KEY))
        return Fate.PASS

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        return sse.render(error_body(refuse, request_id), b"error")

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        return _error_members(refuse, request_id)

    def _merge(self, usage: object) -> None:
        """Later numbers replace earlier ones; a delta leaves out what does not apply to it."""
        if type(usage) is dict:
            self._reported.update((name, value) for name, value in usage.items() if value is not None)
            self._note_tier(self._reported)

    def _note_tier(self, usage: dict[str, Any]) -> None:
        self.service_tier = tier_word(_word(usage.get("speed")), _word(usage.get("inference_geo")) or self._asked_place)

    def _container(self, container: object) -> None:
        if type(container) is dict and type(container.get("id")) is str:
            self._make("container", container["id"])

    def _files(self, content: msgspec.Raw) -> None:
        """Files that code run at the provider left behind.

        Only the provider's own result blocks count: in a tool call or an answer, `file_id` is what the caller made the
        model say, and would give one team another's file.
        """
        raw = bytes(content)
        if b'"file_id"' not in raw:
            return
        blocks = msgspec.json.decode(raw)
        for block in blocks if type(blocks) is list else [blocks]:
            if type(block) is dict and block.get("type") in _CODE_RESULTS:
                result = block.get("content")
                outputs = result.get("content") if type(result) is dict else None
                for output in outputs if type(outputs) is list else ():
                    if type(output) is dict and type(output.get("file_id")) is str:
                        self._make("file", output["file_id"])

    def _make(self, kind: str, name: str) -> None:
        ref = ObjectRef(kind, name)
        if ref not in self.created:
            self.created.append(ref)


_CODE_RESULTS = frozenset({"bash_code_execution_tool_result", "code_execution_tool_result"})
