"""Reads chat and text completions, whole and streamed."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from llmguard.core import sse
from llmguard.core.call import Call, ObjectRef
from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.providers.base import UNREADABLE, encode, llmguard_object, read_loosely
from llmguard.providers.openai_common import always_searches, chat_usage, error_member, tier_served
from llmguard.providers.overlong import HEAD, usage_in
from llmguard.providers.stream import DROP, HOLD, PASS, Fate, SSEReader

_DONE = b"[DONE]"
_HAS_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\{')
_PCM_BASE64_PER_TOKEN = 3_200


Count = Annotated[int, msgspec.Meta(ge=0)]


class Delta(msgspec.Struct, gc=False):
    """The generated part of a choice. Values are checked where they are read, since providers vary them."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class Choice(msgspec.Struct, gc=False):
    """One answer, or the next piece of one."""

    index: Any = 0
    delta: Delta | None = None
    finish_reason: Any = None
    text: Any = None
    message: Delta | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream after the first."""

    choices: list[Choice] | None = None
    service_tier: Any = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None


class Opening(Chunk, gc=False):
    """A whole reply, or the first event of a stream that names itself (Azure begins with one that does not)."""

    id: Any = None
    created: Any = None
    model: Any = None


class PlainPart(msgspec.Struct, gc=False):
    """Counts that are parts of others. Some providers leave them out of the totals (see :func:`chat_usage`)."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None


class PlainUsage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Usage in OpenAI's own words and nothing else, so that there is nothing to interpret."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: int | None = None
    prompt_tokens_details: PlainPart | None = None
    completion_tokens_details: PlainPart | None = None


class PlainMessage(msgspec.Struct, gc=False):
    """A message that names no object."""

    audio: None = None


class PlainChoice(msgspec.Struct, gc=False):
    """One whole answer."""

    message: PlainMessage
    finish_reason: str | None = None


class PlainReply(msgspec.Struct, gc=False):
    """A whole reply as OpenAI itself writes it, which most are."""

    choices: list[PlainChoice]
    usage: PlainUsage
    id: str
    model: str
    service_tier: str | None = None

    def counted(self) -> Usage | None:
        """Its usage; ``None`` where a part may stand outside of the totals."""
        usage = self.usage
        prompt, answer = usage.prompt_tokens_details or _NO_PART, usage.completion_tokens_details or _NO_PART
        read, written = usage.prompt_tokens, usage.completion_tokens
        if (answer.reasoning_tokens or prompt.audio_tokens) and usage.total_tokens != read + written:
            return None
        return Usage(
            read,
            written,
            prompt.cached_tokens,
            prompt.cache_write_tokens,
            answer.reasoning_tokens,
            None,
            prompt.audio_tokens,
            output_audio_tokens=answer.audio_tokens,
        )


_NO_PART = PlainPart()
_decode_plain = msgspec.json.Decoder(PlainReply).decode
_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_opening = msgspec.json.Decoder(Opening).decode


class ChatReader(SSEReader):
    """The reader of the chat dialect.

    With ``asked_usage`` the chunk without choices that carries the usage is taken out. Usage comes in that chunk, in
    one with choices, or in several of which the last counts.
    """

    __slots__ = ("_asked", "_call", "_ended", "_named", "_opening")

    def __init__(self, call: Call, *, asked_usage: bool) -> None:
        super().__init__()
        self._call = call
        self._asked = asked_usage
        self._opening = Opening()
        self._named = False
        self._ended: set[Any] = set()

    def _event(self, data: bytes) -> Fate:
        try:
            chunk = _decode_chunk(data)
        except UNREADABLE:
            if data.startswith(_DONE):
                self.finished = True
                return HOLD
            chunk = _loose(data)
        if not self._named:
            self._open(data)
        for choice in chunk.choices or ():
            delta = choice.delta
            text = None if delta is None or choice.finish_reason is not None else delta.content
            if text and type(text) is str and text.isascii():  # as `_text` counts it, without a call
                self._pieces = pieces = self._pieces + 1
                self._quarters = quarters = self._quarters + len(text)
                self.generated = pieces if pieces * 4 > quarters else quarters // 4
            else:
                self._choice(choice, delta)
        if chunk.usage is None and chunk.error is None and chunk.x_groq is None:
            return PASS
        self._take_usage(chunk)
        if chunk.error:
            self.failed = True
            return HOLD
        return DROP if self._asked and chunk.choices == [] and type(chunk.usage) is dict else PASS

    def _reply(self, body: bytes) -> None:
        try:
            plain = _decode_plain(body)
        except UNREADABLE:
            self._any_reply(body)
            return
        usage = plain.counted()
        if usage is None or always_searches(plain.model) or not plain.model or not plain.id:
            self._any_reply(body)
            return
        self.usage = usage
        self.generated = usage.output_tokens
        self.model = plain.model
        self.service_tier = tier_served(plain.service_tier)
        for choice in plain.choices:
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
        if self._call.creates is not None:
            self.created.append(ObjectRef(self._call.creates, plain.id))

    def _any_reply(self, body: bytes) -> None:
        reply = self._open(body)
        for choice in reply.choices or ():
            self._choice(choice, choice.message)
            if choice.message is not None and choice.message.content:
                self._besides(choice.message)
        self._take_usage(reply)

    def _open(self, data: bytes) -> Opening:
        try:
            opening = _decode_opening(data)
        except UNREADABLE:
            opening = _loose(data)
        self._opening = opening
        self._named = bool(opening.id)
        if type(opening.model) is str and opening.model:
            self.model = opening.model
        self.service_tier = tier_served(opening.service_tier)
        if self._call.creates is not None and type(opening.id) is str and opening.id:
            self.created.append(ObjectRef(self._call.creates, opening.id))
        return opening

    def _choice(self, choice: Choice, piece: Delta | None) -> None:
        if choice.finish_reason is not None:
            self.finish_reason = str(choice.finish_reason)
            self._ended.add(choice.index if type(choice.index) is int else 0)
        content = choice.text if piece is None else piece.content
        if content:
            self._text(content if type(content) is str else _joined(content))
        elif piece is not None:
            self._besides(piece)

    def _besides(self, piece: Delta) -> None:
        """Count what is generated beside content: thoughts, tool calls, speech."""
        thought = piece.reasoning_content or piece.reasoning or piece.refusal
        if thought:
            self._text(_joined(thought))
        tools = piece.tool_calls or piece.function_call
        if tools:
            self._text(_joined(tools), 2)
        if piece.audio is not None:
            self._audio(piece.audio)

    def _audio(self, audio: Any) -> None:
        """Spoken output: 24,000 samples of two bytes a second, at 20 tokens a second (OpenAI, "Audio generation")."""
        if type(audio) is not dict:
            return
        if type(audio.get("id")) is str:
            self.created.append(ObjectRef("audio", audio["id"]))
        if type(audio.get("data")) is str:
            self._text(" " * (4 * (len(audio["data"]) // _PCM_BASE64_PER_TOKEN)))

    def _take_usage(self, chunk: Chunk) -> None:
        usage = chunk.usage
        if usage is None and type(chunk.x_groq) is dict:
            usage = chunk.x_groq.get("usage")
        if type(usage) is dict:
            self._seen(usage)
            named = tier_served(chunk.service_tier) or tier_served(usage.get("service_tier"))
            self.service_tier = named or self.service_tier

    def _seen(self, usage: dict[str, Any]) -> None:
        seen = chat_usage(usage)
        if seen is not None:
            self.usage = seen
            if seen.web_searches is None and self.model is not None and always_searches(self.model):
                seen.web_searches = 1

    def _free(self, event: bytearray) -> int:
        """What may be the chunk that is taken out waits until it is seen to have choices."""
        if self._asked and not _HAS_CHOICES.search(event, 0, HEAD):
            return 0
        return super()._free(event)

    def _overlong_end(self, head: bytes, window: bytes) -> Fate:
        usage = usage_in(window, self.USAGE_KEY)
        if usage is not None:
            self._seen(usage)
        return PASS

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        return error_member(refuse, request_id)

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        """A last chunk that ends every open choice as if its length were reached, and the end marker."""
        opening = self._opening
        chat = self._call.endpoint.endswith("/chat/completions")
        piece: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        choices = [
            {"index": index, **piece, "logprobs": None, "finish_reason": "length"}
            for index in range(self._call.choices)
            if index not in self._ended
        ]
        last = {
            "id": opening.id or f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": opening.created or 0,
            "model": opening.model or self._call.model,
            "choices": choices,
            "llmguard": llmguard_object(refuse, request_id) | {"code": refuse.code, "message": refuse.message},
        }
        return sse.render(encode(last)) + sse.render(_DONE)


def _loose(data: bytes) -> Opening:
    """What can be read of an event or reply whose choices have an unexpected form."""
    doc = read_loosely(data)
    names = ("id", "created", "model", "service_tier", "usage", "x_groq", "error")
    return Opening(**{name: doc.get(name) for name in names})


def _joined(value: Any) -> str:
    """All text within a value: tool calls come as lists of objects, content sometimes as a list of parts."""
    if type(value) is str:
        return value
    texts = []
    stack = [value]
    while stack:
        value = stack.pop()
        if type(value) is str:
            texts.append(value)
        elif type(value) is dict:
            stack += value.values()
        elif type(value) is list:
            stack += value
    return "".join(texts)
