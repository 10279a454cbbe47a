"""Reads responses, whole and streamed."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llmguard.core import sse
from llmguard.core.call import Call, ObjectRef
from llmguard.core.decision import Refuse
from llmguard.providers.base import UNREADABLE, encode, llmguard_object, read_loosely
from llmguard.providers.openai_common import error_member, responses_usage, tier_served, web_searches_in
from llmguard.providers.overlong import usage_in
from llmguard.providers.stream import HOLD, PASS, Fate, SSEReader

_DONE = b"[DONE]"
_LAST = frozenset(("response.completed", "response.incomplete", "response.failed"))
_FIRST = frozenset(("response.created", "response.queued", "response.in_progress"))
_HEAD_TYPE = re.compile(rb'"type"\s*:\s*"((?:response\.)?[a-z_.]+)"')
_HEAD_ID = re.compile(rb'"id"\s*:\s*"(resp_[^"]+)"')
_TEXT_DELTA = "response.output_text.delta"
_JSON_DELTAS = frozenset(("response.function_call_arguments.delta", "response.mcp_call_arguments.delta"))


class Action(msgspec.Struct, gc=False):
    """What a tool did."""

    type: Any = None


class Item(msgspec.Struct, gc=False):
    """One item of the output. Values are checked where they are read, since providers vary them."""

    id: Any = None
    type: Any = None
    action: Action | None = None
    container_id: Any = None


class Response(msgspec.Struct, gc=False):
    """A whole reply, or what the first and the last event of a stream carry."""

    id: Any = None
    model: Any = None
    status: Any = None
    service_tier: Any = None
    tool_usage: Any = None
    usage: Any = None
    error: Any = None
    incomplete_details: Any = None
    output: list[Item] | None = None


class Event(msgspec.Struct, gc=False):
    """One event of a stream."""

    type: str = ""
    delta: Any = None
    sequence_number: Any = None
    response: msgspec.Raw = msgspec.Raw(b"{}")
    item: Item | None = None


_NAMES = ("id", "model", "status", "service_tier", "tool_usage", "usage", "error")
_decode_event = msgspec.json.Decoder(Event).decode
_decode_response = msgspec.json.Decoder(Response).decode


class ResponsesReader(SSEReader):
    """The reader of the Responses dialect: usage comes with the last event."""

    TERMINAL = re.compile(
        rb'[\r\n]*(?:data: ?\[|(?:event: ?|data: ?\{"type": ?")(?:response\.(?:completed|incomplete|failed)|error))'
    )

    __slots__ = ("_began", "_call", "_first", "_items", "_sequence")

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._began = False
        self._first = b""
        self._items: list[Item] = []
        self._sequence = -1

    def _event(self, data: bytes) -> Fate:
        try:
            event = _decode_event(data)
        except UNREADABLE:
            event = _loose_event(data)
        if type(event.sequence_number) is int:
            self._sequence = event.sequence_number
        kind, delta = event.type, event.delta
        if type(delta) is str and delta:
            if kind == _TEXT_DELTA:
                self._text(delta)
            elif not kind.endswith("audio.delta"):
                self._text(delta, 2 if kind in _JSON_DELTAS else 1)
        elif kind in _LAST or kind == "error" or data.startswith(_DONE):
            return self._last(kind, bytes(event.response))
        elif kind in _FIRST:
            self._began = True
            self._first = bytes(event.response)
            self._identity(_response(self._first))
        elif kind == "response.output_item.done" and event.item is not None:
            self._items.append(event.item)
            self._item(event.item)
        return PASS

    def _last(self, kind: str, response: bytes) -> Fate:
        self.finished = True
        self.failed = self.failed or kind in ("error", "response.failed")
        self._take(_response(response))
        return HOLD

    def _reply(self, body: bytes) -> None:
        reply = _response(body)
        self.failed = reply.status == "failed"
        self._items = reply.output or []
        self._take(reply)
        for item in self._items:
            self._item(item)
        if self.usage is None:
            self._text(_output_text(body))

    def _identity(self, response: Response) -> None:
        if type(response.model) is str:
            self.model = response.model
        if self._call.creates is not None and type(response.id) is str:
            created = ObjectRef(self._call.creates, response.id)
            if created not in self.created:
                self.created.append(created)

    def _item(self, item: Item) -> None:
        """Note an item of a stored response, which later calls may name, and the container that a tool ran in."""
        if self._call.creates is not None and type(item.id) is str:
            self.created.append(ObjectRef("item", item.id))
        if type(item.container_id) is str:
            self.created.append(ObjectRef("container", item.container_id))

    def _take(self, response: Response) -> None:
        self._identity(response)
        self.service_tier = tier_served(response.service_tier) or self.service_tier
        if type(response.usage) is dict:
            self._seen(response.usage)
            if self.usage is not None:
                counted = web_searches_in(response.tool_usage)
                self.usage.web_searches = self.usage.web_searches if counted is None else counted
        details = response.incomplete_details
        reason = details.get("reason") if type(details) is dict else None
        if reason or response.status:
            self.finish_reason = str(reason or response.status)

    def _seen(self, usage: dict[str, Any]) -> None:
        seen = responses_usage(usage)
        if seen is not None:
            self.usage = seen
            seen.file_searches = sum(item.type == "file_search_call" for item in self._items) or None
            if seen.web_searches is None:
                seen.web_searches = sum(map(_is_search, self._items)) or None

    def _overlong(self, head: bytes) -> Fate:
        return HOLD if _head_type(head) in _LAST else PASS

    def _overlong_end(self, head: bytes, window: bytes) -> Fate:
        kind = _head_type(head)
        self._began = True
        found = _HEAD_ID.search(head)
        self._identity(Response(id=found[1].decode("utf-8", "replace") if found else None))
        if kind not in _LAST:
            return PASS
        self.finished = True
        self.failed = kind == "response.failed"
        self.finish_reason = kind.removeprefix("response.")
        usage = usage_in(window, self.USAGE_KEY)
        if usage is not None:
            self._seen(usage)
        return HOLD

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        """The API's own ``error`` event, with the member for which the SDKs raise."""
        code, message = encode(refuse.code), encode(refuse.message)
        return b'"type":"error","code":%b,"message":%b,%b' % (code, message, error_member(refuse, request_id))

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        """The event ``response.incomplete``: what was generated so far stands, and the response has ended.

        Before it ``response.created``, where the provider sent none: the SDKs' helpers want to see one first.
        """
        response = read_loosely(self._first) or _minimal(self._call, request_id)
        known = next((ref.id for ref in self.created if ref.kind == "response"), None)
        response |= {"id": known or response.get("id"), "status": "in_progress"}
        created = b"" if self._began else self._made("response.created", response)
        response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        why = llmguard_object(refuse, request_id) | {"code": refuse.code, "message": refuse.message}
        return created + self._made("response.incomplete", response, llmguard=why)

    def _made(self, kind: str, response: dict[str, Any], **more: Any) -> bytes:
        """An event of our own, next in the sequence."""
        self._sequence += 1
        event = {"type": kind, "sequence_number": self._sequence, "response": response, **more}
        return sse.render(encode(event), kind.encode())


def _minimal(call: Call, request_id: str) -> dict[str, Any]:
    """A response object for a stream that ended before the provider sent one."""
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": 0,
        "error": None,
        "instructions": None,
        "metadata": {},
        "model": call.model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def _is_search(item: Item) -> bool:
    """A search is billed, opening a page that it found is not (docs "Web search", output)."""
    return item.type == "web_search_call" and (item.action is None or item.action.type in (None, "search"))


def _head_type(head: bytes) -> str:
    found = _HEAD_TYPE.search(head)
    return found[1].decode() if found else ""


def _loose_event(data: bytes) -> Event:
    """What can be read of an event whose fields have an unexpected form."""
    doc = read_loosely(data)
    kind = doc.get("type")
    return Event(
        type=kind if type(kind) is str else "",
        delta=doc.get("delta"),
        sequence_number=doc.get("sequence_number"),
        response=msgspec.Raw(encode(doc.get("response"))),
    )


def _response(data: bytes) -> Response:
    try:
        return _decode_response(data)
    except UNREADABLE:
        doc = read_loosely(data)
        return Response(**{name: doc.get(name) for name in _NAMES})


def _output_text(body: bytes) -> str:
    """The text of a reply that reports no usage."""
    output = read_loosely(body).get("output")
    texts = []
    for item in output if type(output) is list else ():
        content = item.get("content") if type(item) is dict else None
        for part in content if type(content) is list else ():
            if type(part) is dict and type(part.get("text")) is str:
                texts.append(part["text"])
    return "".join(texts)
