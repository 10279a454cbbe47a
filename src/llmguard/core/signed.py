"""Attribution that travels in one signed header, `x-llmguard-context`: from a web view to its tasks, from a task to
its children, from either to the gateway.

The text is ``1.<payload>.<mac>``: base64url of a JSON array and of its HMAC-SHA256. The payload names what it is bound
to and when it was signed, so that a header copied to another message, or kept for later, is told from a forged one.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

from llmguard.core.call import DEFAULT_ORG, Caller

HEADER: Final = "x-llmguard-context"
"""The header's name, in HTTP and in task messages."""

HTTP: Final = "http"
"""The binding of HTTP requests, whose headers are good for :data:`HTTP_MS` only."""

HTTP_MS: Final = 300_000
"""How far apart the clocks of who signs and who reads may be, and the age of a header included."""

FORGED, REPLAYED, EXPIRED = "forged", "replayed", "expired"

_VERSION = "1"
_PURPOSE = b"llmguard context 1"
_LONGEST = 8_192


def task(task_id: str) -> str:
    """The binding of a task's message."""
    return f"task:{task_id}"


@dataclass(frozen=True, slots=True)
class Signed:
    """What the header says; None: not said. ``depth`` counts the tasks between the root of the tree and this one."""

    org: str = DEFAULT_ORG
    team: str | None = None
    env: str | None = None
    feature: str | None = None
    end_user: str | None = None
    tree_id: str | None = None
    task_id: str | None = None
    depth: int = 0
    trace_id: str | None = None

    @classmethod
    def of(cls, caller: Caller) -> Signed:
        """What a caller hands on."""
        return cls(*_values(caller))

    def caller(self) -> Caller:
        """The caller that it speaks of, without an execution."""
        return Caller(**dict(zip(_NAMES, _values(self), strict=True)))


_NAMES = tuple(field.name for field in fields(Signed))
_values = attrgetter(*_NAMES)


class Signer:
    """Signs and reads with ``keys``: the first one writes, all of them read. Raises ValueError without any."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a signer needs a key: secrets.signing in llmguard.yaml")
        # A key of its own for this purpose, so that a signature means nothing anywhere else.
        self._keys = tuple(hmac.digest(key, _PURPOSE, "sha256") for key in keys)

    def sign(self, signed: Signed, binding: str, now_ms: int) -> str:
        """The header's text. ``binding`` is :data:`HTTP` or :func:`task`; ``now_ms`` is epoch milliseconds."""
        return self.seal(_values(signed), binding, now_ms)

    def read(self, text: str, binding: str, now_ms: int) -> Signed | str:
        """What the header says, or why it means nothing: `forged`, `replayed` (it belongs to another message) or
        `expired`."""
        values = self.unseal(text, binding, now_ms)
        return values if isinstance(values, str) else Signed(*values)

    def seal(self, values: Sequence[Any], binding: str, now_ms: int) -> str:
        """The same for any ``values`` that JSON can say."""
        content = json.dumps([binding, now_ms, *values], separators=(",", ":"), ensure_ascii=False)
        payload = _encode(content.encode("utf-8", "replace"))
        return f"{_VERSION}.{payload}.{_encode(self._mac(self._keys[0], payload))}"

    def unseal(self, text: str, binding: str, now_ms: int) -> list[Any] | str:
        """What was sealed, or why it means nothing, as in :meth:`read`."""
        payload = self._genuine(text)
        if payload is None:
            return FORGED
        values: list[Any]
        bound, at, *values = json.loads(_decode(payload))
        if bound != binding:
            return REPLAYED
        if binding == HTTP and abs(now_ms - at) > HTTP_MS:
            return EXPIRED
        return values

    def _genuine(self, text: str) -> str | None:
        version, _, rest = text.partition(".")
        payload, _, mac = rest.partition(".")
        if version != _VERSION or len(text) > _LONGEST or not text.isascii():
            return None
        for key in self._keys:
            if hmac.compare_digest(_encode(self._mac(key, payload)), mac):
                return payload
        return None

    @staticmethod
    def _mac(key: bytes, payload: str) -> bytes:
        return hmac.digest(key, payload.encode("ascii"), "sha256")


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
