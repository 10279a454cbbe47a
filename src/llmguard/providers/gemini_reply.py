"""What Google's Gemini API answers: usage, streamed chunks, and errors in its shape."""

from __future__ import annotations

from typing import Any

import msgspec

from llmguard.core import sse
from llmguard.core.decision import Refuse
from llmguard.core.usage import Usage
from llmguard.providers.base import encode, llmguard_object
from llmguard.providers.gemini_common import searches_per_prompt
from llmguard.providers.overlong import usage_in
from llmguard.providers.stream import Fate, SSEReader

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MODALITIES = {"IMAGE": "IMAGE", "VIDEO": "VIDEO", "AUDIO": "AUDIO", "DOCUMENT": "IMAGE"} | {
    2: "IMAGE",
    3: "VIDEO",
    4: "AUDIO",
    5: "IMAGE",
}
"""Modalities by name and, with `enum-encoding=int`, by number. A page of a document costs what an image does."""
_EMPTY = {"role": "model", "parts": [{"text": ""}]}


def error_body(refuse: Refuse, request_id: str) -> bytes:
    """An error reply. Google's clients find the reason and how long to wait in its `details`."""
    return b"{%s}" % _error_member(refuse, request_id)


def _error_member(refuse: Refuse, request_id: str) -> bytes:
    """The encoded member that makes a reply or a chunk an error."""
    reason = {"reason": refuse.code.upper(), "domain": "llmguard", "metadata": {"request_id": request_id}}
    details: list[dict[str, Any]] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **reason}]
    if refuse.retry_after is not None and refuse.should_retry is not False:
        wait = {"retryDelay": f"{refuse.retry_after}s"}
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", **wait})
    fallback = "INVALID_ARGUMENT" if refuse.status < 500 else "INTERNAL"
    return b'"error":' + encode(
        {
            "code": refuse.status,
            "message": refuse.message,
            "status": _STATUS.get(refuse.status, fallback),
            "details": details,
            "llmguard": llmguard_object(refuse, request_id),
        }
    )


class _Part(msgspec.Struct, gc=False):
    """Values are checked where they are read, so that a strange one costs nothing but itself."""

    text: Any = None
    functionCall: Any = None
    executableCode: Any = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Grounding(msgspec.Struct, gc=False):
    webSearchQueries: Any = None


class _Candidate(msgspec.Struct, gc=False):
    content: _Content | None = None
    groundingMetadata: _Grounding | None = None
    finishReason: Any = None
    index: Any = 0


class _Output(msgspec.Struct, gc=False):
    candidatesTokenCount: Any = None
    thoughtsTokenCount: Any = None


class _Chunk(msgspec.Struct, gc=False):
    candidates: list[_Candidate] | None = None
    usageMetadata: _Output | None = None
    modelVersion: Any = None
    promptFeedback: Any = None
    error: Any = None


class _Reported(msgspec.Struct):
    usageMetadata: dict[str, Any] | None = None


_PASS = Fate.PASS
_chunk = msgspec.json.Decoder(_Chunk).decode
_reported = msgspec.json.Decoder(_Reported).decode
_chunks = msgspec.json.Decoder(_Chunk | list[_Chunk]).decode
_all_reported = msgspec.json.Decoder(_Reported | list[_Reported]).decode


def usage_of(reported: dict[str, Any] | None) -> Usage | None:
    """Usage in llmguard's convention; None when no tokens are reported.

    Gemini's candidates leave out thoughts, and its prompt the results of tools that ran at Google. A count that is
    absent is zero, as in all proto3 JSON; where only a total is there, it counts as input.
    """
    if reported is None:
        return None
    prompt, output = _count(reported, "promptTokenCount"), _count(reported, "candidatesTokenCount")
    thoughts = _count(reported, "thoughtsTokenCount")
    if prompt is None and output is None and thoughts is None:
        prompt = _count(reported, "totalTokenCount")
        if prompt is None:
            return None
    # Embeddings spell it without the `s`.
    parts = _parts(reported.get("promptTokensDetails") or reported.get("promptTokenDetails"))
    cached, answered = _parts(reported.get("cacheTokensDetails")), _parts(reported.get("candidatesTokensDetails"))
    return Usage(
        input_tokens=(prompt or 0) + (_count(reported, "toolUsePromptTokenCount") or 0),
        output_tokens=(output or 0) + (thoughts or 0),
        cached_input_tokens=_count(reported, "cachedContentTokenCount"),
        reasoning_tokens=thoughts,
        input_audio_tokens=parts.get("AUDIO"),
        cached_audio_tokens=cached.get("AUDIO"),
        output_audio_tokens=answered.get("AUDIO"),
        input_image_tokens=parts.get("IMAGE"),
        input_video_tokens=parts.get("VIDEO"),
    )


def _count(reported: dict[str, Any], name: str) -> int | None:
    value = reported.get(name)
    return value if type(value) is int and value >= 0 else None


def _int(value: object) -> int:
    return value if type(value) is int else 0


def _parts(details: object) -> dict[str, int]:
    """Tokens by modality, other than text."""
    found: dict[str, int] = {}
    for detail in details if type(details) is list else ():
        if type(detail) is dict:
            named = detail.get("modality")
            kind = _MODALITIES.get(named) if isinstance(named, str | int) else None
            tokens = _count(detail, "tokenCount")
            if kind is not None and tokens is not None:
                found[kind] = found.get(kind, 0) + tokens
    return found


class GeminiReader(SSEReader):
    """Reads one reply, whole or as server-sent events.

    Every chunk reports usage so far, and the last is right; no event marks the end, a stream just ends. So the chunk
    in which the last candidate finishes is held back until the record is written, and ``finished`` stays False: only
    the end of the body is the end. A chunk that runs code says `STOP` too, and more chunks follow: it is not held.

    A stream that is cut ends with a chunk that is both an error, which the SDK raises, and for who looks no further
    than the candidates an end for the reason `OTHER`. A chunk that was cut in its middle becomes one first: its
    candidates are named a second time, and the last ones count, so nobody gets a tool call with half its arguments.
    """

    USAGE_KEY = b'"usageMetadata"'

    __slots__ = ("_choices", "_ended", "_known", "_queries")

    def __init__(self, choices: int) -> None:
        super().__init__()
        self._choices = choices
        self._ended: set[int] = set()
        self._known = 0
        self._queries: set[str] = set()

    def _event(self, data: bytes) -> Fate:
        try:
            chunk = _chunk(data)
        except (ValueError, RecursionError):
            return _PASS
        if chunk.error:
            self.failed = self.finished = True
            return Fate.HOLD
        last = self._take(chunk)
        if chunk.usageMetadata is not None:
            self.usage = self._report(_reported(data).usageMetadata) if last else None
        return Fate.HOLD if last else _PASS

    def _reply(self, body: bytes) -> None:
        try:
            chunks, reported = _chunks(body), _all_reported(body)
        except (ValueError, RecursionError):
            return
        for chunk in chunks if type(chunks) is list else [chunks]:
            self._take(chunk)
        for each in reported if type(reported) is list else [reported]:
            self.usage = self._report(each.usageMetadata) or self.usage

    def _report(self, reported: dict[str, Any] | None) -> Usage | None:
        """Usage, and what the reply so far says beside it: who served it, and what Google was asked.

        Empty and repeated queries are not billed (docs "Grounding with Google Search", pricing).
        """
        usage = usage_of(reported)
        if usage is None or reported is None:
            return None
        tier = reported.get("serviceTier")
        if type(tier) is str:
            self.service_tier = tier.lower()
        if self._queries:
            usage.web_searches = 1 if searches_per_prompt(self.model or "") else len(self._queries)
        return usage

    def _take(self, chunk: _Chunk) -> bool:
        """Read one chunk; True when it is the last one as far as candidates tell."""
        if type(chunk.modelVersion) is str:
            self.model = chunk.modelVersion
        for candidate in chunk.candidates or ():
            self._candidate(candidate)
        if type(chunk.promptFeedback) is dict and (blocked := chunk.promptFeedback.get("blockReason")):
            self.finish_reason = str(blocked)
            self._ended = set(range(self._choices))
        usage = chunk.usageMetadata
        if usage is not None:
            self._known = max(self._known, _int(usage.candidatesTokenCount) + _int(usage.thoughtsTokenCount))
        if self._known > self.generated:
            self.generated = self._known
        return len(self._ended) >= self._choices

    def _candidate(self, candidate: _Candidate) -> None:
        goes_on = False
        for part in (candidate.content and candidate.content.parts) or ():
            if part.text and type(part.text) is str:
                self._text(part.text)
            elif part.functionCall is not None or part.executableCode is not None:
                self._text(encode(part.functionCall or part.executableCode).decode())
                goes_on = part.executableCode is not None
        if candidate.groundingMetadata is not None:
            queries = candidate.groundingMetadata.webSearchQueries
            self._queries.update(q for q in (queries if type(queries) is list else ()) if type(q) is str and q)
        index = candidate.index if type(candidate.index) is int else 0
        if candidate.finishReason:
            self.finish_reason = str(candidate.finishReason)
        if candidate.finishReason and not goes_on:
            self._ended.add(index)
        else:
            self._ended.discard(index)

    def _free(self, event: bytearray) -> int:
        """All but its line end: who reads line by line must not see the last chunk too early."""
        return super()._free(event) and (len(event.rstrip(b"\r\n")) or len(event))

    def _overlong_end(self, head: bytes, window: bytes) -> Fate:
        self.usage = self._report(usage_in(window, self.USAGE_KEY))
        return Fate.HOLD if self._choices == 1 and b'"finishReason"' in window else _PASS

    def _ending(self, refuse: Refuse, request_id: str) -> bytes:
        return sse.render(b"{%b}" % self._error(refuse, request_id))

    def _error(self, refuse: Refuse, request_id: str) -> bytes:
        """An error, which the SDK raises where it comes first, and candidates in the place of those before it."""
        candidates = [
            {"content": _EMPTY, "finishReason": "OTHER", "finishMessage": refuse.message, "index": index}
            for index in range(self._choices)
            if index not in self._ended
        ]
        return b'%b,"candidates":%b' % (_error_member(refuse, request_id), encode(candidates))
