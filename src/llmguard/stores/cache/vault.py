"""Names and seals entries, so that whoever reads the cache's server learns nothing and can forge nothing.

An entry is sealed with AES-256-GCM under its tenant's own key, bound to its name, so that an entry copied to another
name does not open. Names are keyed digests: they do not say what was asked. Keys are derived from the configured
secrets (HMAC-SHA256, one label per purpose); the first secret writes and all of them read.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmguard.core.cache import Kept

_NONCE = 12
_TENANTS = 4_096


class Vault:
    """Turns replies into blobs and back. ``secrets`` are at least 256 bits each."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)
        self._cipher = lru_cache(_TENANTS)(self._cipher_of)

    def __repr__(self) -> str:
        return "Vault(…)"

    def tenants(self, owner: str) -> list[str]:
        """What the names of this owner's entries (``org/team``) start with, by secret."""
        return [_derive(secret, "tenant", owner.encode()).hex()[:16] for secret in self._secrets]

    def names(self, owner: str, digest: bytes) -> list[str]:
        """Where an entry may be found: under the name that the first secret gives it, then under older ones."""
        material = digest + owner.encode()
        names = [_derive(secret, "name", material).hex()[:40] for secret in self._secrets]
        return [f"{tenant}/{name}" for tenant, name in zip(self.tenants(owner), names, strict=True)]

    def seal(self, owner: str, name: str, kept: Kept) -> bytes:
        """A blob that only :meth:`unseal` with the same owner and name opens."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher(owner, 0).encrypt(nonce, msgspec.msgpack.encode(kept), name.encode())

    def unseal(self, owner: str, name: str, index: int, blob: bytes) -> Kept | None:
        """The reply, None for a blob that was damaged, forged or sealed for somebody else.

        ``index`` is the secret's, as in :meth:`names`.
        """
        try:
            plain = self._cipher(owner, index).decrypt(blob[:_NONCE], blob[_NONCE:], name.encode())
            return msgspec.msgpack.decode(plain, type=Kept)
        except (InvalidTag, ValueError, msgspec.DecodeError):
            return None

    def _cipher_of(self, owner: str, index: int) -> AESGCM:
        return AESGCM(_derive(self._secrets[index], "entry", owner.encode()))


def _derive(secret: bytes, label: str, material: bytes) -> bytes:
    return hmac.digest(secret, b"llmguard cache " + label.encode() + b"\0" + material, "sha256")
