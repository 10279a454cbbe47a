"""Keys as this process knows them: looked up once in the ledger, forgotten when they change."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable
from typing import NamedTuple

from llmguard.core.call import Principal
from llmguard.ledger import Verified, parse_key
from llmguard.ledger.keys import Keys, Unfit
from llmguard.runtime.ids import now_ms

Verdict = Principal | Unfit

_REMEMBER = 10_000
_UNFIT_MS = 10_000
_FOREVER = 1 << 62


class _Known(NamedTuple):
    verdict: Verdict
    until: int
    key_id: str


class Keyring:
    """Verifies keys. Known ones are answered at once, the others by the ledger in another thread.

    Keys are remembered by a keyed digest, never as text. :meth:`refresh` forgets those that changed in the ledger; call
    it twice a second, so that a revocation is heard within one.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._version = 0
        self.asked = False
        """Whether the ledger was ever asked for a key; before that there is nothing to refresh."""

    def verify(self, text: str) -> Verdict | Awaitable[Verdict]:
        """Who holds this key, or why it is no good. The awaitable raises LedgerUnavailable."""
        digest = self._digest(text)
        verdict = self._recall(digest)
        if verdict is not None:
            return verdict
        parsed = parse_key(text)
        return "unknown" if parsed is None else asyncio.to_thread(self._look_up, text, digest, parsed.id)

    def check(self, text: str) -> Verdict:
        """The same for a caller that may be kept waiting. Raises LedgerUnavailable."""
        digest = self._digest(text)
        verdict = self._recall(digest)
        if verdict is not None:
            return verdict
        parsed = parse_key(text)
        return "unknown" if parsed is None else self._look_up(text, digest, parsed.id)

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._salt, digest_size=20).digest()

    def _recall(self, digest: bytes) -> Verdict | None:
        known = self._known.get(digest)
        return known.verdict if known is not None and (known.until is _FOREVER or now_ms() < known.until) else None

    def _look_up(self, text: str, digest: bytes, key_id: str) -> Verdict:
        self.asked = True
        version = self._version
        found = self._keys.lookup(text)
        if isinstance(found, Verified):
            known = _Known(found.principal, found.until or _FOREVER, key_id)
        else:
            known = _Known(found, now_ms() + _UNFIT_MS, key_id)
        if version == self._version:
            self._known[digest] = known
            if len(self._known) > _REMEMBER:
                self._known.popitem(last=False)
        return known.verdict

    def refresh(self) -> None:
        """Forget the keys that changed since the last call. Waits for the ledger; raises LedgerUnavailable."""
        changes = self._keys.changes_since(self._version)
        self._version = changes.version
        for digest, known in list(self._known.items()):
            if known.key_id in changes.ids:
                self._known.pop(digest, None)
