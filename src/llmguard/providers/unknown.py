"""Bodies that no dialect understands: they pass as they are, and are charged by a price per request.

Only what keeps tenants apart is read: the model that a body names, and objects at the provider that a body or a reply
names. A reply's usage is not: a shape that can be trusted to be read right deserves a dialect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from llmguard.core.call import Call, Edits, ObjectRef, Request
from llmguard.core.decision import Refuse
from llmguard.core.ports import Dialect, Reader
from llmguard.core.usage import Usage
from llmguard.errors import BadCall
from llmguard.providers.base import decode, encode, splice
from llmguard.providers.objects import NAMES, Names, made, results

_FORM_FIELD = re.compile(rb"name\*?\s*=\s*(?:[\w-]*'[\w-]*')?\"?([\w.-]+)")
_FORM_MODEL = re.compile(rb'name="model"\r\n\r\n([\w.:/@-]{1,200})\r\n')
_LONGEST_MODEL = 200

_decode = msgspec.json.Decoder().decode


class Unknown:
    """The dialect `unknown` of one family. Its refusals have the shape of ``like``, the family's main dialect."""

    name = "unknown"

    def __init__(self, like: Dialect) -> None:
        self.family = like.family
        self._like = like
        self._names = NAMES[like.family]

    def parse(self, request: Request, endpoint: str, model: str | None) -> Call:
        """Look for a model, a wish for a stream and objects; JSON must be as strict as where it is metered."""
        body = request.body
        doc: dict[str, Any] | None = None
        if body:
            if body.lstrip()[:1] in (b"{", b"[") or "json" in request.headers.get("content-type", ""):
                doc = decode(body)
            else:
                _check_form(body, request.headers.get("content-type", ""), self._names)
        return Call(
            self.name,
            self.family,
            endpoint,
            request.method,
            request.path,
            request.query,
            request.headers,
            body,
            model or _model(body, doc),
            doc,
            stream=_wants_stream(request, doc),
            generates=False,
            reads=self._names.named(body, doc) if doc is not None else (),
            metered=False,
        )

    def texts(self, call: Call) -> Sequence[str]:
        """Nothing: such a call has a price of its own."""
        return ()

    def overhead_tokens(self, call: Call) -> int:
        """Nothing."""
        return 0

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body with the model's name at its provider, where it names one."""
        doc = call.doc
        if edits.model is None or doc is None or type(doc.get("model")) is not str:
            return call.body
        return splice(call.body, {"model": encode(edits.model)}, present=doc)

    def reader(self, call: Call, *, asked_usage: bool) -> Reader:
        """A reader that only notes what was made."""
        return UnknownReader(call)

    def refusal(self, refuse: Refuse, request_id: str) -> bytes:
        """An error in the family's shape."""
        return self._like.refusal(refuse, request_id)


class UnknownReader:
    """Passes everything on at once; of a whole reply it reads which object it made."""

    __slots__ = (
        "_call",
        "created",
        "failed",
        "finish_reason",
        "finished",
        "generated",
        "model",
        "service_tier",
        "usage",
    )

    def __init__(self, call: Call) -> None:
        self._call = call
        self.usage: Usage | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.finish_reason: str | None = None
        self.generated = 0
        self.finished = False
        self.failed = False
        self.created: list[ObjectRef] = []

    def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Note the objects that a successful JSON reply says it made."""
        kind, batch = self._call.creates, "/batches" in self._call.endpoint
        if status >= 400 or not (kind or batch) or "json" not in content_type:
            return
        try:
            reply = _decode(body)
        except (ValueError, RecursionError):
            return
        if type(reply) is dict:
            self.created = [*(made(kind, reply) if kind else ()), *(results(reply) if batch else ())]

    def feed(self, data: bytes) -> bytes:
        """The same bytes."""
        return data

    def held(self) -> bytes:
        """Nothing is ever held."""
        return b""

    def flush(self) -> bytes:
        """Nothing is ever held back."""
        return b""

    def cut(self, refuse: Refuse, request_id: str) -> bytes:
        """Nothing: how such a stream ends is not known, so it just stops."""
        return b""


def _model(body: bytes, doc: dict[str, Any] | None) -> str:
    """The model that a body names; "" where it names none."""
    if doc is not None:
        named = doc.get("model")
        return named if type(named) is str and len(named) <= _LONGEST_MODEL else ""
    found = _FORM_MODEL.search(body)
    return found[1].decode("ascii", "replace") if found else ""


def _wants_stream(request: Request, doc: dict[str, Any] | None) -> bool:
    if doc is not None and doc.get("stream") is True:
        return True
    if request.headers.get("accept", "").startswith("text/event-stream"):
        return True
    return bool(request.query) and parse_qs(request.query).get("stream") == ["true"]


def _check_form(body: bytes, content_type: str, names: Names) -> None:
    """Refuse forms that name objects, whose owner nobody would check."""
    if content_type.startswith("application/x-www-form-urlencoded"):
        raise BadCall("Send JSON or multipart/form-data.", code="unsupported_media_type", status=415)
    for field in _FORM_FIELD.finditer(body.lower()):
        name = field[1].decode("ascii", "replace")
        if name in names.folded:
            raise BadCall(f"Send '{name}' in a JSON body: in a form, its owner cannot be checked.", param=name)
