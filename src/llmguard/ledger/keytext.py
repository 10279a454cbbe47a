"""Virtual keys as text: `lg_<env>_<id>_<secret>`, the secret being 256 random bits and a checksum.

The checksum lets a typing mistake, or a key of something else, be refused without asking the ledger.
"""

from __future__ import annotations

import hmac
import re
import secrets
import zlib
from typing import NamedTuple

PREFIX = "lg"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
# ceil(256 / log2(62)) and ceil(32 / log2(62))
_SECRET_LENGTH, _CHECK_LENGTH = 43, 6
_LONGEST_ENV = 32


class ParsedKey(NamedTuple):
    """A well-formed key: its environment as written, its id, and the whole text."""

    env: str
    id: str
    text: str


def new_id() -> str:
    """A fresh key id."""
    return "".join(secrets.choice(_ID_DIGITS) for _ in range(_ID_LENGTH))


def new_key(env: str, key_id: str) -> str:
    """A fresh key for an id."""
    plain = f"{PREFIX}_{env_word(env)}_{key_id}_{_base62(secrets.randbits(256), _SECRET_LENGTH)}"
    return plain + _checksum(plain)


def parse_key(text: str) -> ParsedKey | None:
    """Take a key apart; None for anything that no :func:`new_key` ever made. Says nothing about its being valid."""
    parts = text.split("_")
    if len(parts) != 4 or parts[0] != PREFIX or len(parts[3]) != _SECRET_LENGTH + _CHECK_LENGTH or not text.isascii():
        return None
    if _checksum(text[:-_CHECK_LENGTH]) != text[-_CHECK_LENGTH:]:
        return None
    return ParsedKey(parts[1], parts[2], text)


def digest(text: str, pepper: bytes) -> bytes:
    """What is kept of a key: an HMAC-SHA256 that is worthless without the pepper."""
    return hmac.digest(pepper, text.encode(), "sha256")


def env_word(env: str) -> str:
    """An environment's name as it may stand in a key: `[a-z0-9-]`, at most 32 characters."""
    return re.sub(r"[^a-z0-9]+", "-", env.lower()).strip("-")[:_LONGEST_ENV] or "-"


def _checksum(plain: str) -> str:
    return _base62(zlib.crc32(plain.encode()), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
