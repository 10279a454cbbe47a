"""The exact cache: which calls it may answer, what makes two calls the same, and what is kept of a reply.

Two calls are the same when their team, provider, model, endpoint, query, body and the headers that a provider reads
are. The body is compared as the provider would read it: spaces and the order of its outermost members mean nothing.
Everything else does, also the order of members further in, for models answer in the order of a schema. Nothing here
reads or writes; stores keep entries only sealed (:mod:`llmguard.stores.cache`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from llmguard.core import sse
from llmguard.core.call import Attribution, Call
from llmguard.core.decision import Target

_VERSION = 2
"""Part of every digest: entries of an older layout are never found."""
_PROVIDER_HEADERS = ("anthropic-", "openai-", "x-goog-")
_SECRET_HEADERS = frozenset({"x-goog-api-key"})
_CACHE_HEADER = "cache-control"
_LONGEST_AGE = 12
"""Digits of a `max-age` that says anything: thirty thousand years."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What the cache keeps. ``ttl_ms`` is an entry's life, ``max_entry`` its largest body in bytes.

    ``max_temperature`` leaves out calls that ask for a higher one; None caches whatever the temperature. ``dialects``
    leaves out all others; empty means every dialect.
    """

    ttl_ms: int
    max_entry: int = 1 << 20
    max_temperature: float | None = None
    dialects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Directives:
    """What a caller's `cache-control` asks for: not to keep the reply, not to use a kept one, or none older than so."""

    no_store: bool = False
    no_cache: bool = False
    max_age_ms: int | None = None


_NONE = Directives()


def directives(headers: Mapping[str, str]) -> Directives:
    """Read a request's `cache-control` (RFC 9111, section 5.2.1); what is not understood is passed over."""
    text = headers.get(_CACHE_HEADER)
    if text is None:
        return _NONE
    words = {name.strip().lower(): value.strip().strip('"') for name, _, value in _pairs(text)}
    age = words.get("max-age", "")
    known = age.isdecimal() and len(age) <= _LONGEST_AGE
    return Directives("no-store" in words, "no-cache" in words, int(age) * 1000 if known else None)


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    return (word.partition("=") for word in text.split(","))


def cacheable(call: Call, policy: CachePolicy) -> bool:
    """Whether a stored reply could ever answer this call.

    Not where the reply depends on what lies at the provider, on a search that a tool makes there, or makes an object
    there that a later call names.
    """
    if call.op != "generate" or not call.metered or call.doc is None:
        return False
    if call.reads or call.server_context or call.creates or call.web_searches or call.file_searches:
        return False
    if policy.dialects and call.dialect not in policy.dialects:
        return False
    return policy.max_temperature is None or _temperature(call.doc) <= policy.max_temperature


def _temperature(doc: Mapping[str, object]) -> float:
    """What the body asks for, 1 (every provider's default) where it names none."""
    config = doc.get("generationConfig")
    for place in (doc, config if isinstance(config, dict) else {}):
        value = place.get("temperature")
        if isinstance(value, int | float):
            return float(value)
    return 1.0


def digest(call: Call, who: Attribution, target: Target) -> bytes:
    """Thirty-two bytes that are equal for two calls exactly when one reply answers both."""
    assert call.doc is not None
    headers = sorted(
        (name, value)
        for name, value in call.headers.items()
        if name.startswith(_PROVIDER_HEADERS) and name not in _SECRET_HEADERS
    )
    parts = [
        _VERSION,
        who.org,
        who.team,
        target.provider,
        target.model,
        call.dialect,
        call.method,
        call.endpoint,
        call.path,
        call.origin,
        call.query,
        call.stream,
        headers,
        sorted({**call.doc, "model": target.model}.items()),
    ]
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=32).digest()


class Tape:
    """Records a reply while it passes to its caller, up to ``room`` bytes.

    ``name`` is the call's :func:`digest`, ``owner`` its ``org/team``; ``claimed`` says that others wait for it.
    ``content_type`` is None until the reply's head has come, and for one that is not to be kept.
    """

    __slots__ = ("_pieces", "_room", "claimed", "content_type", "name", "owner")

    def __init__(self, name: bytes, owner: str, room: int, *, claimed: bool) -> None:
        self.name = name
        self.owner = owner
        self.claimed = claimed
        self.content_type: str | None = None
        self._pieces: list[bytes] = []
        self._room = room

    def add(self, data: bytes) -> None:
        """More of the reply. Beyond its room nothing is remembered."""
        self._room -= len(data)
        if self._room >= 0:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def body(self, rest: bytes) -> bytes | None:
        """All of it with ``rest`` at its end; None where that is too much."""
        return b"".join((*self._pieces, rest)) if self._room >= len(rest) else None


class Kept(NamedTuple):
    """A reply as it is kept: status 200 always, the media type, the bytes, and what it had cost.

    ``stored_at`` is in epoch milliseconds, amounts in nano-USD. Usage fields are those of the ledger.
    """

    content_type: str
    body: bytes
    stream: bool
    stored_at: int
    cost_nano: int
    model_served: str | None
    finish_reason: str | None
    input_tokens: int
    output_tokens: int

    def chunks(self) -> list[bytes]:
        """The reply as it is sent again: a stream event by event, a whole reply in one piece."""
        return sse.split(self.body) if self.stream else [self.body]

    def age_ms(self, now: int) -> int:
        """How old it is, never negative."""
        return max(now - self.stored_at, 0)
