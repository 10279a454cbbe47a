"""Configured providers as the relay needs them: an engine, a path prefix, and the key that only they may see."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from urllib.parse import quote

from llmguard.core.call import Call
from llmguard.core.decision import Target
from llmguard.core.edge import outgoing_headers, outgoing_query
from llmguard.forward.engine import Engine, Fields, Outgoing

HOLD_UP_TO = 256 * 1024
"""Bytes of a whole reply that are held to put its cost into the head."""

_VERSION_SEGMENT = re.compile(r"v\d+(?:(?:alpha|beta)\d*)?")
_KEY_HEADER = {"openai": b"authorization", "anthropic": b"x-api-key", "gemini": b"x-goog-api-key"}
_MODEL_PARENTS = ("/models/", "/deployments/")
_ANTHROPIC_VERSION = (b"anthropic-version", b"2023-06-01")


class Upstream:
    """One provider. Several keys take turns; each goes only to this provider's own origin."""

    def __init__(self, name: str, family: str, engine: Engine, base_path: str, keys: list[str]) -> None:
        self.name = name
        self.family = family
        self.engine = engine
        self._base_path = base_path.rstrip("/")
        header = _KEY_HEADER.get(family, b"authorization")
        scheme = "Bearer " if header == b"authorization" else ""
        self._keys = cycle([(header, f"{scheme}{key}".encode("latin-1")) for key in keys]) if keys else None
        self.secrets = tuple(key.encode("latin-1") for key in keys)

    def __repr__(self) -> str:
        return f"Upstream({self.name!r}, {self.family!r})"

    def outgoing(
        self, call: Call, target: Target, body: bytes, before_send: Callable[[], None], tenant: str | None = None
    ) -> Outgoing:
        """The request to send: caller's headers by allow-list, our key, the path under our base URL.

        ``tenant`` keeps idempotency keys of different teams apart.
        """
        key = next(self._keys) if self._keys is not None else None
        found: tuple[bytes, Fields] | None = call.memo.get((self, key, tenant))
        if found is None:
            found = self._target(call.path, call), self._fields(call, key, tenant)
            call.memo[self, key, tenant] = found
        address, fields = found
        path = call.path if call.model == target.model else renamed_path(call, target)
        if path is not call.path:
            address = self._target(path, call)
        return Outgoing(call.method, address, fields, body, before_send, 0 if call.stream else HOLD_UP_TO)

    def _fields(self, call: Call, key: tuple[bytes, bytes] | None, tenant: str | None) -> Fields:
        fields = outgoing_headers(call.raw_headers, call.family, tenant)
        if key is not None:
            fields.append(key)
        if call.family == "anthropic" and "anthropic-version" not in call.headers:
            fields.append(_ANTHROPIC_VERSION)
        return tuple(fields)

    def _target(self, path: str, call: Call) -> bytes:
        path = join_path(self._base_path, path)
        query = outgoing_query(call.query, call.family) if call.query else ""
        return (f"{path}?{query}" if query else path).encode("latin-1")


def renamed_path(call: Call, target: Target) -> str:
    """The path with the model replaced where it carries one (Gemini, Azure); bodies are renamed by their dialect."""
    for parent in _MODEL_PARENTS:
        before, carried, after = call.path.partition(parent + call.model)
        if carried:
            return before + parent + quote(target.model, safe="/:@") + after
    return call.path


@lru_cache(1024)
def join_path(base: str, path: str) -> str:
    """Put a caller's path under a provider's base URL.

    A version segment (`/v1`) that the base URL already ends with is not repeated, whichever the caller wrote; an
    OpenAI-style base URL with a path of its own (`/serving-endpoints`) replaces the caller's version.
    """
    if not base:
        return path
    _, first, rest = path.split("/", 2) if path.count("/") > 1 else ("", path[1:], "")
    if _VERSION_SEGMENT.fullmatch(first):
        return f"{base}/{rest}" if rest else base
    return base + path
